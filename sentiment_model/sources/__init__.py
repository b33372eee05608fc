"""Sources of reviews: each streams batches of records and quarantines the ones that it cannot read.

In go files, folders, object stores and packages; out come rows with where they come from. `ingest` is the stage that
makes reviews for training of them, `split` the one that cuts large text files for scoring.
"""
