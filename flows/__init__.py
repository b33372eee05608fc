"""Prefect flows: the training and the scoring pipeline."""
