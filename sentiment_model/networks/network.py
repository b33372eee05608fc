"""The recurrent classifier: embedding -> recurrent layers, once in each direction -> masked pooling -> linear.

Batches are padded at the end and carry their lengths. A review's logit depends on its own tokens alone: a direction
reads from a review's first token on, the backward one from its last, so that all padding comes after it, and pooling
sees no padding. Each direction is a stack of layers of its own, as in Peters et al. (2018), "Deep Contextualized Word
Representations": neither sees what the other has read, so both can learn to predict the next token of a text.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from sentiment_model.config import ModelConfig
from sentiment_model.networks.arithmetic import has_loops
from sentiment_model.networks.lookup import look_up
from sentiment_model.networks.mingru import MinGRULayer
from sentiment_model.networks.ngrams import NGramScore
from sentiment_model.networks.outputs import count_outputs
from sentiment_model.networks.pooling import pool
from sentiment_model.networks.qrnn import QRNNLayer

PAD_ID = 0
UNKNOWN_ID = 1

EMBEDDING_STD = 0.1
"""Of the numbers that an embedding starts with."""

Table = tuple[Tensor, ...]
"""What the first layer of a direction computes of each token of the vocabulary, see :meth:`Encoder.tabulate`."""


class Layer(Protocol):
    """A recurrent layer: (time, batch, input_size) to (time, batch, hidden_size)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the states of every step."""

    def reset_parameters(self) -> None:
        """Initialise."""


_CELLS: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
_PARALLEL_CELLS: dict[str, type[MinGRULayer | QRNNLayer]] = {"mingru": MinGRULayer, "qrnn": QRNNLayer}


class StandardLayer(nn.Module):
    """One of PyTorch's own recurrent layers."""

    def __init__(self, cell: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.recurrent = _CELLS[cell](input_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states of every step."""
        # On the CPU these layers gain nothing from a lower precision.
        with torch.autocast(x.device.type, enabled=x.is_cuda and torch.is_autocast_enabled("cuda")):
            states: Tensor = self.recurrent(x)[0]
        return states

    def reset_parameters(self) -> None:
        """Initialise: orthogonal recurrence, LSTM forget gates open."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "weight_hh" in name:
                    for gate in torch.split(parameter, self.recurrent.hidden_size):
                        nn.init.orthogonal_(gate)
                elif "weight_ih" in name:
                    nn.init.xavier_uniform_(parameter)
                else:
                    parameter.zero_()
                    if isinstance(self.recurrent, nn.LSTM) and "bias_ih" in name:
                        nn.init.ones_(torch.split(parameter, self.recurrent.hidden_size)[1])


def _layer(cell: str, input_size: int, hidden_size: int, depth: int) -> nn.Module:
    if cell == "qrnn" and depth:
        return QRNNLayer(input_size, hidden_size, window=1)  # its inputs are outputs, which know of those before
    if cell in _PARALLEL_CELLS:
        return _PARALLEL_CELLS[cell](input_size, hidden_size)
    return StandardLayer(cell, input_size, hidden_size)


class SequenceDropout(nn.Module):
    """Dropout that draws one mask for all steps of a sequence: (..., time, batch, width) to the same.

    This follows Gal & Ghahramani (2016), "A Theoretically Grounded Application of Dropout in Recurrent Neural
    Networks".
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Drop units in training."""
        if not self.training or not self.share:
            return x
        return x * self.draw(x.shape, x.dtype, x.device)

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return factors for a tensor of this shape: 0, or what keeps the mean; shape (..., 1, batch, width)."""
        keep = 1.0 - self.share
        mask = torch.rand(*shape[:-3], 1, *shape[-2:], device=device) < keep
        return mask.to(dtype) / keep


class Direction(nn.Module):
    """The recurrent layers of one direction: (time, batch, embedding_size) to (time, batch, hidden_size)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = [config.embedding_size, *[config.hidden_size] * (config.layers - 1)]
        self.layers = nn.ModuleList(
            _layer(config.cell, size, config.hidden_size, depth) for depth, size in enumerate(sizes)
        )
        self.dropout = SequenceDropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's states of every step; those past a sequence's length are meaningless."""
        return self._deepen(self.layers[0](x))

    def look_up(self, table: Table, ids: Tensor) -> Tensor:
        """Return the same for token ids, shape (time, batch), with the table of this direction."""
        return self._deepen(cast("MinGRULayer | QRNNLayer", self.layers[0]).look_up(table, ids))

    def _deepen(self, states: Tensor) -> Tensor:
        for layer in self.layers[1:]:
            states = layer(self.dropout(states))
        return states


class Encoder(nn.Module):
    """Embedding and directions: token ids to the states of every step."""

    def __init__(self, vocabulary_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_size, padding_idx=PAD_ID)
        self.dropout = SequenceDropout(config.embedding_dropout)
        self.directions = nn.ModuleList(Direction(config) for _ in range(2 if config.bidirectional else 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise: small embeddings, and each layer as its cell needs."""
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        with torch.no_grad():
            self.embedding.weight[PAD_ID].zero_()
        for direction in self._directions():
            for layer in direction.layers:
                cast("Layer", layer).reset_parameters()

    def tabulate(self) -> tuple[Table, ...] | None:
        """Return what the first layers compute of each token of the vocabulary, if they need no state for that.

        With these tables, one for each direction, :meth:`forward` looks up what it otherwise computes anew for each
        occurrence of a token.
        """
        if self.config.cell not in _PARALLEL_CELLS:
            return None
        firsts = [cast("MinGRULayer | QRNNLayer", direction.layers[0]) for direction in self._directions()]
        return tuple(first.tabulate(self.embedding.weight) for first in firsts)

    def forward(
        self, ids: Tensor, lengths: Tensor, tables: tuple[Table, ...] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what each direction reads and its states.

        Args:
            ids: token ids padded at the end with 0, shape (batch, time).
            lengths: number of tokens of each review, at least 1, shape (batch,).
            tables: what :meth:`tabulate` returned, in evaluation only: it knows nothing of dropout.

        Yields:
            token ids in the order of reading, shape (time, batch), and states, shape (time, batch, hidden_size); both
            are meaningless past a review's length.
        """
        orders = [ids] if len(self.directions) == 1 else [ids, reverse_within_lengths(ids, lengths)]
        ordered = torch.stack(orders).transpose(1, 2)
        if tables is not None:
            for order, table, direction in zip(ordered, tables, self._directions(), strict=True):
                yield order, direction.look_up(table, order)
            return
        # Both orders in one look-up, since its gradient is as large as the embedding.
        for order, x, direction in zip(ordered, self._embed(ordered), self._directions(), strict=True):
            yield order, direction(x)

    def _directions(self) -> Iterator[Direction]:
        return (cast("Direction", direction) for direction in self.directions)

    def _embed(self, ids: Tensor) -> Tensor:
        """Map (directions, time, batch) to (directions, time, batch, embedding_size)."""
        if self.training and self.config.word_dropout:
            dropped = torch.rand(ids.shape, device=ids.device) < self.config.word_dropout
            ids = torch.where(dropped, UNKNOWN_ID, ids)
        is_parallel = self.config.cell in _PARALLEL_CELLS
        if not (self.training and self.dropout.share and is_parallel and has_loops(ids)):
            x: Tensor = self.dropout(self.embedding(ids))
            return x
        vectors = self.embedding.weight
        mask = self.dropout.draw((*ids.shape, vectors.shape[1]), vectors.dtype, ids.device)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else vectors.dtype
        return look_up(vectors, ids, mask, PAD_ID, dtype)


class SentimentNetwork(nn.Module):
    """Recurrent network that maps token ids to the logits of a review's classes.

    Attributes:
        answer_shape: of the answer to one review.
    """

    def __init__(self, vocabulary_size: int, config: ModelConfig, classes: int = 2) -> None:
        super().__init__()
        self.config = config
        self.answer_shape = (count_outputs(classes),)
        self.encoder = Encoder(vocabulary_size, config)
        self.dropout = nn.Dropout(config.dropout)
        features = config.hidden_size * len(self.encoder.directions) * len(config.pooling)
        self.classifier = nn.Linear(features, *self.answer_shape)

    def forward(self, ids: Tensor, lengths: Tensor, tables: tuple[Table, ...] | None = None) -> Tensor:
        """Return logits, float32, shape (batch, outputs); arguments are as for :class:`Encoder`."""
        pooled = [pool(states, lengths, self.config.pooling) for _, states in self.encoder(ids, lengths, tables)]
        with torch.autocast(ids.device.type, enabled=False):  # a logit needs more than the 8 bits of bfloat16
            features = torch.cat(pooled, dim=-1).to(self.classifier.weight.dtype)
            logits: Tensor = self.classifier(self.dropout(features))
        return logits.float()


def reverse_within_lengths(ids: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each row within its own length; what follows stays as it is.

    Args:
        ids: shape (batch, time).
        lengths: shape (batch,).
    """
    step = torch.arange(ids.shape[1], device=ids.device)
    last = lengths.unsqueeze(1) - 1
    return ids.gather(1, torch.where(step <= last, last - step, step))


class SentimentModel(nn.Module):
    """What predictions are made with: the recurrent network, and the wide part where the configuration has one.

    The network is trained alone; the wide part is fitted beside it, scaled so that the sum is the model's logits.

    Attributes:
        answer_shape: of the answer to one review.
    """

    def __init__(self, vocabulary_size: int, config: ModelConfig, classes: int = 2) -> None:
        super().__init__()
        self.answer_shape = (2, count_outputs(classes))
        self.recurrent = SentimentNetwork(vocabulary_size, config, classes)
        self.wide = NGramScore(config.ngram_order, classes) if config.ngram_order else None

    def forward(self, ids: Tensor, lengths: Tensor, tables: tuple[Table, ...] | None = None) -> Tensor:
        """Return the logits of the parts, whose sum is the model's.

        Args:
            ids: token ids padded at the end with 0, shape (batch, time).
            lengths: number of tokens of each review, at least 1, shape (batch,).
            tables: what :meth:`Encoder.tabulate` returned, in evaluation only.

        Returns:
            the recurrent part's logits and the wide part's (zeros where there is none), float32, shape
            (batch, 2, outputs); see :mod:`sentiment_model.networks.outputs`.
        """
        recurrent = self.recurrent(ids, lengths, tables)
        wide = torch.zeros_like(recurrent) if self.wide is None else self.wide(ids, lengths)
        return torch.stack([recurrent, wide], dim=1)
