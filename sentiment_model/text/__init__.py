"""From raw text to token ids: what a review is, normalising, cleaning, the vocabulary and the tokens.

In go rows of reviews; out come cleaned reviews, split in three, and their token ids in Parquet.
"""
