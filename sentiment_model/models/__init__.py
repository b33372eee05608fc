"""A trained model as a folder, which training writes, and the distributions that it was fitted on.

In go weights, a vocabulary and a configuration; out comes a predictor, raw texts in and probabilities out.
"""
