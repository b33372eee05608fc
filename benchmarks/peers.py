"""The peers: how each is trained and written to a folder, and how it scores raw texts from there.

Training gets normalised text. Scoring gets raw text, which it normalises as ours does, so every contestant reads the
same characters. Libraries are imported where they are used: a peer's memory is measured in a process of its own.
Settings are those of the papers and manuals; where these leave a choice, it was made on the validation reviews.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.data import Split
from sentiment_model.text.normalise import normalise
from sentiment_model.text.tokens import tokens_of

Score = Callable[[pl.Series], NDArray[np.float64]]
"""Maps raw texts to the probability of positive, or to any number in 0..1 that is at least 0.5 for positive."""


@dataclass(frozen=True)
class Peer:
    """A contestant that is not ours.

    Attributes:
        title: its name in the tables.
        fit: trains on a split and writes the model to a folder, given a seed.
        load: reads the model.
        seeded: whether the seed makes a difference.
    """

    title: str
    fit: Callable[[Split, Path, int], None]
    load: Callable[[Path], Score]
    seeded: bool = False


def _normalised(raw: pl.Series) -> pl.Series:
    return raw.to_frame("text").select(normalise(pl.col("text")))["text"]


def _spaced(texts: pl.Series) -> pl.Series:
    """Return the tokens that ours reads, with spaces between them; in English, either unit gives the same."""
    return texts.to_frame("text").select(tokens_of(pl.col("text"), "character").list.join(" "))["text"]


def _fit_tfidf(train: Split, folder: Path, _seed: int) -> None:
    import joblib
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    model = make_pipeline(vectorizer, LogisticRegression(C=10.0, max_iter=1000))
    model.fit(train.text.to_list(), train.labels)
    joblib.dump(model, folder / "model.joblib")


def _load_tfidf(folder: Path) -> Score:
    import joblib

    model = joblib.load(folder / "model.joblib")
    return lambda raw: model.predict_proba(_normalised(raw).to_list())[:, 1]


def _fit_nbsvm(train: Split, folder: Path, _seed: int) -> None:
    """Wang & Manning (2012), "Baselines and Bigrams", with their alpha, beta and C, on 1- to 3-grams."""
    import joblib
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.svm import LinearSVC

    alpha, beta = 1.0, 0.25
    vectorizer = CountVectorizer(ngram_range=(1, 3), binary=True, token_pattern=r"\S+", min_df=2, dtype=np.float32)
    counts = vectorizer.fit_transform(_spaced(train.text).to_list())
    positive = alpha + np.asarray(counts[train.labels > 0.5].sum(axis=0)).ravel()
    negative = alpha + np.asarray(counts[train.labels < 0.5].sum(axis=0)).ravel()
    ratio = np.log((positive / positive.sum()) / (negative / negative.sum())).astype(np.float32)
    svm = LinearSVC(C=1.0, random_state=0).fit(counts.multiply(ratio).tocsr(), train.labels)
    # Interpolated between naive Bayes, in which all ratios weigh the same, and the SVM, with its intercept.
    weights = ratio * ((1 - beta) * np.abs(svm.coef_).mean() + beta * svm.coef_.ravel())
    intercept = beta * float(svm.intercept_[0])
    joblib.dump((vectorizer, weights.astype(np.float32), intercept), folder / "model.joblib")


def _load_nbsvm(folder: Path) -> Score:
    import joblib
    from scipy.special import expit

    vectorizer, weights, intercept = joblib.load(folder / "model.joblib")

    def score(raw: pl.Series) -> NDArray[np.float64]:
        margins = vectorizer.transform(_spaced(_normalised(raw)).to_list()) @ weights + intercept
        return np.asarray(expit(margins), dtype=np.float64)

    return score


def _fit_fasttext(train: Split, folder: Path, seed: int) -> None:
    """Joulin et al. (2016), "Bag of Tricks for Efficient Text Classification": 10 hidden units and bigrams."""
    import fasttext

    labels = pl.Series(train.labels).cast(pl.Int8).cast(pl.String)
    texts = "__label__" + labels + " " + _spaced(train.text)
    # fastText takes the reviews in the file's order, and the source has one label after the other.
    lines = folder / "train.txt"
    lines.write_text("\n".join(texts.shuffle(seed)) + "\n")
    model = fasttext.train_supervised(str(lines), dim=10, wordNgrams=2, lr=0.5, epoch=10, seed=seed, verbose=0)
    lines.unlink()
    model.save_model(str(folder / "model.bin"))


def _load_fasttext(folder: Path) -> Score:
    import fasttext

    model = fasttext.load_model(str(folder / "model.bin"))

    def score(raw: pl.Series) -> NDArray[np.float64]:
        # A list, because fastText's answer to a single text fails with numpy 2.
        labels, probabilities = model.predict(_spaced(_normalised(raw)).to_list())
        positive = np.array([label[0] == "__label__1" for label in labels])
        best = np.clip(np.array([probability[0] for probability in probabilities], dtype=np.float64), 0.0, 1.0)
        return np.where(positive, best, 1.0 - best)

    return score


_LEXICA = ("vader_lexicon.txt", "emoji_utf8_lexicon.txt")


def _fit_vader(_train: Split, folder: Path, _seed: int) -> None:
    """Hutto & Gilbert (2014): a lexicon and rules, which nothing is learned for."""
    import vaderSentiment

    for name in _LEXICA:
        shutil.copy(Path(vaderSentiment.__file__).parent / name, folder)


def _load_vader(folder: Path) -> Score:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer(*(str(folder / name) for name in _LEXICA))

    def score(raw: pl.Series) -> NDArray[np.float64]:
        compound = [analyzer.polarity_scores(text)["compound"] for text in _normalised(raw)]
        return (np.array(compound) + 1) / 2

    return score


def _fit_plain(train: Split, folder: Path, seed: int, *, cell: str, bidirectional: bool) -> None:
    from benchmarks import plain

    plain.fit(train, folder, seed, cell, bidirectional=bidirectional)


def _load_plain(folder: Path, *, cell: str, bidirectional: bool) -> Score:
    from benchmarks import plain

    return plain.load(folder, cell, bidirectional=bidirectional)


def _plain(title: str, cell: str, *, bidirectional: bool) -> Peer:
    network = {"cell": cell, "bidirectional": bidirectional}
    return Peer(title, partial(_fit_plain, **network), partial(_load_plain, **network), seeded=True)


PEERS = {
    "tfidf": Peer("TF-IDF of 1-2-grams, logistic regression", _fit_tfidf, _load_tfidf),
    "nbsvm": Peer("NB-SVM on 1-3-grams", _fit_nbsvm, _load_nbsvm),
    "fasttext": Peer("fastText with bigrams", _fit_fasttext, _load_fasttext, seeded=True),
    "vader": Peer("VADER (lexicon)", _fit_vader, _load_vader),
    "tutorial-rnn": _plain("tutorial RNN, one direction", "rnn", bidirectional=False),
    "plain-lstm": _plain("plain bidirectional LSTM", "lstm", bidirectional=True),
}
