"""Subwords: what is learned, and how words are cut into it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from languages import reviews_in

from sentiment_model.config import TokenizeConfig
from sentiment_model.errors import ConfigurationError
from sentiment_model.text import subwords
from sentiment_model.text.subwords import learn_pieces
from sentiment_model.text.token_table import TokenTable
from sentiment_model.text.tokenize import encode
from sentiment_model.text.vocabulary import Vocabulary

COUNTS = {"low": 5, "lower": 2, "newest": 6, "widest": 3, ".": 9, "재밌다": 1}


def words(counts: dict[str, int]) -> pl.DataFrame:
    return pl.DataFrame({"token": list(counts), "count": list(counts.values())})


def cut(word: str, pieces: list[str]) -> list[str]:
    """The same in plain Python: the longest piece that is known, and one unknown for unknown characters in a row."""
    known, found, start = set(pieces), [], 0
    while start < len(word):
        spelled = {end: ("##" if start else "") + word[start:end] for end in range(start + 1, len(word) + 1)}
        end = max((end for end, piece in spelled.items() if piece in known), default=start + 1)
        piece = spelled[end] if spelled[end] in known else "?"
        if piece != "?" or found[-1:] != ["?"]:
            found.append(piece)
        start = end
    return found


def test_what_occurs_most_often_side_by_side_is_merged_first() -> None:
    # The example of Sennrich et al. (2016), with the starts of words told from the rest.
    pieces = learn_pieces(words(COUNTS), 19, 2)
    assert pieces[:12] == ["##e", "##w", "##s", "##t", ".", "##o", "l", "n", "##d", "##i", "w", "##r"]
    assert pieces[12:] == ["##es", "##est", "##ow", "low", "##ew", "new", "newest"]


@given(
    st.lists(
        st.sampled_from(["a", "##a", "ab", "##ab", "##bab", "b", "é", "##é", "##가나", "가", "#", "##"]), unique=True
    ),
    st.lists(st.text("ab가나é#x", min_size=1, max_size=9), max_size=5),
)
def test_words_are_cut_into_the_longest_known_pieces(pieces: list[str], texts: list[str]) -> None:
    ids, lengths = TokenTable.of(pieces).cut(pl.Series(texts, dtype=pl.String))
    names = ["<pad>", "?", *pieces]
    found = [[names[number] for number in of] for of in np.split(ids, lengths.cumsum())[:-1]]
    assert found == [cut(text, pieces) for text in texts]


def test_a_vocabulary_of_subwords(tmp_path: Path) -> None:
    reviews = reviews_in("Korean").lazy()
    config = TokenizeConfig(unit="subword", max_vocabulary=130, min_count=3)
    vocabulary = Vocabulary.fit(reviews, config)
    assert 60 < len(vocabulary) <= 130
    assert vocabulary.table["token"].str.starts_with("##").any()
    assert Vocabulary.fit(reviews.reverse(), config).table.equals(vocabulary.table)
    vocabulary.save(tmp_path / "v.parquet")
    loaded = Vocabulary.load(tmp_path / "v.parquet")
    assert (loaded.unit, loaded.digest) == ("subword", vocabulary.digest)
    # What it says of the reviews that it is made of is what there is.
    encoded = encode(reviews.collect(), loaded, 1000)
    found = encoded["ids"].explode().value_counts().sort("ids")
    assert found["ids"].to_list() == list(range(2, len(vocabulary)))
    assert found["count"].to_list() == vocabulary.table["count"].to_list()[2:]
    # Each review is its tokens, one after the other.
    tokens = vocabulary.table["token"].to_list()
    for text, ids in encoded.select("text", "ids").iter_rows():
        assert "".join(tokens[number].removeprefix("##") for number in ids) == text.replace(" ", "")


def test_rare_characters_are_unknown_and_the_size_bounds_the_characters_too() -> None:
    rare = words(COUNTS)
    assert "재" not in "".join(learn_pieces(rare, 100, 2))
    assert "재" in learn_pieces(rare, 100, 1)
    assert learn_pieces(rare, 3, 1) == ["##e", "##w", "##s"]
    assert learn_pieces(words({".": 9, "!": 3}), 100, 1) == [".", "!"]


def test_of_many_words_the_frequent_ones_are_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subwords, "_MAX_CHARACTERS", 12)
    assert "widest" not in learn_pieces(words(COUNTS), 100, 2)
    monkeypatch.setattr(subwords, "_MAX_CHARACTERS", 1000)
    monkeypatch.setattr(subwords, "_MAX_OCCURRENCES", 6)
    assert "newest" in learn_pieces(words(COUNTS), 100, 2)


def test_who_lacks_the_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        ConfigurationError, match=r"^subwords need tokenizers: pip install 'sentiment-pipeline\[subword\]'"
    ):
        learn_pieces(words(COUNTS), 100, 2)


def test_reading_text_with_subwords_takes_no_library(tmp_path: Path) -> None:
    reviews = reviews_in("Korean")
    Vocabulary.fit(reviews.lazy(), TokenizeConfig(unit="subword", min_count=1)).save(tmp_path / "v.parquet")
    code = (
        "import sys; from pathlib import Path; import polars as pl\n"
        "from sentiment_model.text.vocabulary import Vocabulary; from sentiment_model.text.scanner import Scanner\n"
        "read = Scanner(Vocabulary.load(Path(sys.argv[1])), 100).read(pl.Series(['재밌네요ㅋㅋㅋ']))\n"
        "assert read.n_unknown.item() == 0 and 'tokenizers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "v.parquet")], check=True, timeout=120)
