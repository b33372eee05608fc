"""Recurrent sentiment classifier: data stages, network, training, evaluation and scoring.

Nothing here knows Prefect, and only :mod:`sentiment_model.tracking` and the model script it logs know MLflow,
so every function can be used from a notebook.
"""
