"""What readers are told of a review, in columns whose names depend on the classes.

Of two classes there is the `probability` of the second, which has the label from a threshold on. Of more there is the
probability of each, and the most probable one is the label.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sentiment_model.classes import Classes

THRESHOLD = 0.5


def probability_columns(classes: Classes) -> list[str]:
    """Return the names of the columns with probabilities, in the order of the classes."""
    return ["probability"] if len(classes) == 2 else [f"probability_{name}" for name in classes.names]


def answer_columns(classes: Classes) -> list[str]:
    """Return the names of the columns that :func:`answers` makes."""
    confidence = [] if len(classes) == 2 else ["confidence"]
    return ["label", *confidence, *probability_columns(classes)]


def most_likely(probabilities: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the number of the class with the largest probability, of equal ones the last: positive from 0.5 on.

    Args:
        probabilities: of all classes, shape (rows, classes).
    """
    classes = probabilities.shape[1]
    return np.asarray(classes - 1 - probabilities[:, ::-1].argmax(axis=1))


def answers(probabilities: pl.Series, classes: Classes, threshold: float = THRESHOLD) -> pl.DataFrame:
    """Return the answers of a model as columns.

    Args:
        probabilities: of each class, an array for each of n reviews.
        classes: what the model tells apart.
        threshold: of two classes, the probability from which a review is of the second.

    Returns:
        n rows in the same order: `label`, the name of a class; of two classes the `probability` of the second; of more
        the `confidence`, which is the label's probability, and `probability_<class>` of each.
    """
    values = probabilities.to_numpy()
    names = pl.Series("label", classes.names, dtype=pl.String())
    if len(classes) == 2:
        second = values[:, 1]
        return pl.DataFrame({"label": names.gather((second >= threshold).astype("uint32")), "probability": second})
    best = pl.DataFrame({"label": names.gather(most_likely(values)), "confidence": values.max(axis=1)})
    return best.hstack(pl.DataFrame(values, schema=probability_columns(classes), orient="row"))


def distance_from_another_label(classes: Classes, threshold: float) -> pl.Expr:
    """Return how much has to move to a class, of the probability of the label, for it to be another.

    Args:
        classes: what the model tells apart, whose columns the expression reads.
        threshold: of two classes, the probability from which a review is of the second.
    """
    if len(classes) == 2:
        return (pl.col("probability") - threshold).abs()
    ranked = pl.concat_list(probability_columns(classes)).list.sort(descending=True)
    return (ranked.list.get(0) - ranked.list.get(1)) / 2
