"""Where stages keep what they make: datasets addressed by what they were made from, in folders or object stores.

In go a stage's name, its inputs and its parameters; out comes a dataset that is whole or not there at all.
"""

from sentiment_model.store.datasets import DatasetRef

__all__ = ["DatasetRef"]  # by this name Prefect's records of what earlier runs returned know it
