"""The honest peer: TF-IDF and logistic regression, trained on the same reviews.

Its terms are words or, where the network's tokens are characters, n-grams of these. Where they are subwords, the
scripts of the reviews choose.

A recurrent network that loses to it has no reason to exist.
"""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sentiment_model.classes import Classes
from sentiment_model.errors import QualityError
from sentiment_model.store.datasets import DatasetWriter, Stage
from sentiment_model.store.parts import PartWriter
from sentiment_model.text.tokens import Unit, choose_unit, tokens_of

BASELINE = Stage("baseline", 2)
MAX_TRAINING_REVIEWS = 200_000

_BATCH_ROWS = 20_000
# Words as scikit-learn finds them; characters say little alone, but their n-grams are what words are elsewhere.
_TERMS: dict[Unit, dict[str, Any]] = {"word": {}, "character": {"ngram_range": (1, 3), "token_pattern": r"\S+"}}


def write_baseline(writer: DatasetWriter, reviews: pl.LazyFrame, classes: Classes, unit: Unit) -> dict[str, Any]:
    """Fit on the train split and write the `probabilities` of all classes of the held-out reviews (role `part`).

    More than :data:`MAX_TRAINING_REVIEWS` training reviews are thinned to those with the lowest hashes, which is a
    random and repeatable sample.

    Args:
        writer: where to write.
        reviews: cleaned reviews.
        classes: those of the labels.
        unit: what the network's tokens are.

    Returns:
        counts: how many reviews it was trained on and how many terms it knows.

    Raises:
        QualityError: no term is in two training reviews.
    """
    train = (
        reviews.filter(pl.col("split") == "train")
        .select("text", "label", "text_hash")
        .bottom_k(MAX_TRAINING_REVIEWS, by="text_hash")
        .sort("text_hash")
        .collect(engine="streaming")
    )
    if unit == "subword":
        unit = choose_unit(train.lazy())
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2, **_TERMS[unit]), LogisticRegression(max_iter=1000)
    )
    try:
        model.fit(_spaced(train, unit), train["label"].to_numpy())
    except ValueError as error:
        if "no terms remain" not in str(error) and "empty vocabulary" not in str(error):
            raise
        raise QualityError(
            f"no word is in two of the {train.height:,} training reviews: nothing can be learned from them; add reviews"
        ) from error
    held_out = reviews.filter(pl.col("split").is_in(["validation", "test"])).select("text_hash", "text")
    schema = pl.Schema(
        {"text_hash": held_out.collect_schema()["text_hash"], "probabilities": pl.Array(pl.Float64, len(classes))}
    )
    with PartWriter(writer, "part", schema) as part:
        for batch in held_out.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
            probabilities = np.zeros((batch.height, len(classes)))
            probabilities[:, model.classes_] = model.predict_proba(_spaced(batch, unit))  # thinning may lose a class
            part.write(batch.select("text_hash", probabilities=pl.Series(probabilities)))
    return {"trained_on": train.height, "words": len(model[0].vocabulary_)}


def _spaced(reviews: pl.DataFrame, unit: Unit) -> NDArray[np.object_]:
    """Return the texts, with spaces between the tokens where these are characters."""
    text = pl.col("text")
    return reviews.select(text if unit == "word" else tokens_of(text, unit).list.join(" ")).to_series().to_numpy()
