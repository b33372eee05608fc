"""Reviews that are not in English, from training to scores."""

import re
import shlex
from pathlib import Path

import polars as pl
import pytest
import torch
from languages import LANGUAGES, reviews_in, write_korean

from flows._cli import run_cli
from flows.train import train
from sentiment_model.config import TokenizeConfig, TrainingRun
from sentiment_model.models.bundle import ModelDescription, Predictor
from sentiment_model.networks.batching import TokenizedReviews
from sentiment_model.store.datasets import open_dataset
from sentiment_model.text.normalise import normalise
from sentiment_model.text.tokenize import encode
from sentiment_model.text.vocabulary import Vocabulary
from sentiment_model.training.naive_bayes import fit_ngrams

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_learned_holds_for_sentences_that_training_has_not_seen(language: str) -> None:
    reviews = reviews_in(language).with_columns(normalise(pl.col("text")))
    is_new = pl.col("opening") == reviews["opening"].max()

    def right(unit: str) -> float:
        config = TokenizeConfig.model_validate({"unit": unit, "min_count": 1})
        vocabulary = Vocabulary.fit(reviews.lazy().filter(~is_new), config)
        tokens = encode(reviews, vocabulary, 1000)
        known, new = (TokenizedReviews.from_frame(tokens.filter(which)) for which in (~is_new, is_new))
        logits = fit_ngrams(known, new, 3)(*new.batch(torch.arange(len(new)), int(new.lengths.max())))
        return float(((logits[:, 0] > 0) == (new.labels > 0.5)).float().mean())

    assert right("auto") == 1.0
    if language != "Korean":  # which has spaces, and these few reviews have few words
        assert right("word") == 0.5


def test_the_example_of_the_documents(settings_in: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(settings_in)
    write_korean(settings_in / "korean.parquet")
    document = (ROOT / "docs" / "training.md").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"python -m flows\.train (.*korean.parquet.*)", document)
    runs: list[TrainingRun] = []
    assert run_cli(TrainingRun, runs.append, [*shlex.split(command), "--train.processes", "1"]) == 0
    trained = train(runs[0])
    assert open_dataset(trained.tokens).counts["unit"] == "character"
    with open_dataset(trained.model).local_folder() as folder:
        assert ModelDescription.read(folder).network.ngrams == 5
        found = Predictor.load(folder).predict(pl.Series(["정말 재미있네요ㅋㅋ", "너무 지루하고 재미없었다"]))
    assert (found["probabilities"].arr.get(1) > 0.5).to_list() == [True, False]
    assert found["n_tokens"].to_list() == [9, 11]
