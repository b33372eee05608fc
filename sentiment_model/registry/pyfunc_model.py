"""The MLflow model: raw text in; label, probabilities and model version out.

MLflow runs this file when it loads the model ("models from code"), so nothing is pickled. The model folder
also carries this package, in `code/`, and the files of :mod:`sentiment_model.models.bundle`, in `artifacts/bundle/`.
"""

from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import yaml
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from sentiment_model.models.answers import answers
from sentiment_model.models.bundle import Predictor


class SentimentModel(PythonModel):
    """Labels the `text` column of a data frame."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model files, checking their digests."""
        bundle = Path(context.artifacts["bundle"])
        self._predictor = Predictor.load(bundle)
        self._version = _registered_version(bundle) or self._predictor.digest

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow's signature
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """Return label, probabilities and model version of each text.

        Args:
            context: MLflow's view of the model folder; not used.
            model_input: n rows with a `text` column of raw text.
            params: not used.

        Returns:
            n rows in the same order: `label`, the name of a class; of two classes the `probability` of the second, of
            more the `confidence` and `probability_<class>` of each, in 0..1; and `model_version`: the registry's
            version, or the bundle's digest for a model loaded from elsewhere. A text that is missing or has no word
            has None for all but the version.
        """
        texts = [text if isinstance(text, str) else "" for text in model_input["text"]]
        scores = self._predictor.predict(pl.Series(texts, dtype=pl.String))
        has_word = scores["n_tokens"] > 0
        known = answers(scores["probabilities"], self._predictor.classes)
        columns = {name: values.set(~has_word, None).to_list() for name, values in known.to_dict().items()}
        # Objects where one is missing, because JSON has a word for None and none for NaN.
        frame = pd.DataFrame(columns, index=model_input.index, dtype=object)
        if has_word.all():
            frame = frame.astype(dict.fromkeys(known.columns[1:], "float64"))
        return frame.assign(model_version=self._version)


def _registered_version(bundle: Path) -> str | None:
    """Return the version that MLflow notes beside MLmodel when it loads a model from the registry."""
    note = bundle.parents[1] / "registered_model_meta"
    version = yaml.safe_load(note.read_text())["model_version"] if note.is_file() else None
    return str(version) if version is not None else None


set_model(SentimentModel())
