"""Pieces of words, learned by byte-pair encoding (Sennrich et al. 2016) with Hugging Face's `tokenizers`.

A piece that does not start a word has :data:`CONTINUES` before it. Words are cut from left to right into the longest
pieces that are known, not by repeating the merges, so the pieces are all there is to keep. Such cuts follow the parts
of words well: Uzan et al. (2024), "Greed is All You Need: An Evaluation of Tokenizer Inference Methods".
"""

import os
from collections.abc import Iterator

import polars as pl

from sentiment_model.errors import ConfigurationError
from sentiment_model.text.tokens import CONTINUES

_MAX_CHARACTERS = 20_000_000  # of the distinct words that are learned from
_MAX_OCCURRENCES = 20_000_000  # of these words; where there are more, each counts in proportion
_LONGEST = 32  # characters of a piece
_START = "_"  # of a word, in which it never is


def learn_pieces(words: pl.DataFrame, size: int, min_count: int) -> list[str]:
    """Return at most `size` pieces: all characters that are frequent enough, and then what is merged of them.

    The pieces depend on the words and their counts only, not on the order of the rows. Of very many words, the most
    frequent are learned from, 20 million characters of them.

    Args:
        words: `token`, each once, and `count`.
        size: most pieces.
        min_count: what occurs fewer times is no piece.

    Raises:
        ConfigurationError: tokenizers is not installed.
    """
    # By their letters, of the many runs of Chinese or Thai that occur once those would come first that begin alike.
    words = words.sort("count", pl.col("token").hash(), "token", descending=[True, False, False])
    words = words.filter(pl.col("token").str.len_chars().cum_sum() <= _MAX_CHARACTERS)
    characters = _characters(words, min_count)[:size]
    firsts = sum(not piece.startswith(CONTINUES) for piece in characters)  # which are merged with the start again
    merged = _merge(words, size - len(characters) + firsts, min_count) if len(characters) < size else []
    return list(dict.fromkeys([*characters, *merged]))[:size]


def _characters(words: pl.DataFrame, min_count: int) -> list[str]:
    """Return the pieces of one character, the most frequent first."""
    letters = pl.col("token").str.split("")
    rest = letters.list.slice(1).list.eval(CONTINUES + pl.element())
    counted = (
        words.lazy()
        .select("count", piece=pl.concat_list(letters.list.head(1), rest))
        .explode("piece")
        .group_by("piece")
        .sum()
        .filter(pl.col("count") >= min_count)
        .sort("count", "piece", descending=[True, False])
    )
    return counted.collect(engine="streaming")["piece"].to_list()


def _merge(words: pl.DataFrame, count: int, min_count: int) -> list[str]:
    """Return as many pieces as byte-pair encoding finds, at most `count`, in the order in which it merges them."""
    # Left open, it warns on the terminal of each process that is started after it has used its threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError as error:
        raise ConfigurationError("subwords need tokenizers: pip install 'sentiment-pipeline[subword]'") from error

    words = words.filter(pl.col("token").str.len_chars() > 1)
    if words.is_empty():
        return []
    in_proportion = -(-int(words["count"].sum()) // _MAX_OCCURRENCES)

    def spelled() -> Iterator[str]:
        for word, occurrences in words.select("token", "count").iter_rows():
            yield f"{_START}{word} " * max(1, occurrences // in_proportion)

    alphabet = {_START}.union(*words["token"])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + count,
        min_frequency=max(1, min_count // in_proportion),
        max_token_length=_LONGEST,
        show_progress=False,
    )
    tokenizer.train_from_iterator(spelled(), trainer)
    found = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return [_piece(spelled) for spelled, _ in found if len(spelled) > 1]


def _piece(spelled: str) -> str:
    return spelled.removeprefix(_START) if spelled.startswith(_START) else CONTINUES + spelled
