"""The recurrent classifier: embedding -> recurrent layers -> masked pooling -> linear.

Batches are padded at the end and carry their lengths. A review's logit depends on its own tokens alone: the
backward direction starts at each review's own last token, and pooling sees no padding. Each direction is a network
of its own, because PyTorch's bidirectional modules start the backward one in the padding unless the batch is packed,
and packed sequences are many times slower on CPU.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sentiment_model.config import ModelConfig
from sentiment_model.mingru import MinGRULayer
from sentiment_model.ngrams import NGramScore
from sentiment_model.pooling import masked_max, masked_mean

PAD_ID = 0
UNKNOWN_ID = 1

_CELLS: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class _ReverseWithinLengths(torch.autograd.Function):
    """Reverses the first `length` steps of each sequence and leaves the padding in place.

    The permutation is its own inverse, so the gradient is the same gather; autograd's own gradient of a gather is a
    scatter-add, which is several times slower.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return x.gather(0, index.unsqueeze(-1).expand_as(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradients[0].gather(0, index.unsqueeze(-1).expand_as(gradients[0])), None


def reverse_within_lengths(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each sequence of a time-major batch within its own length.

    Args:
        x: states, shape (time, batch, features).
        lengths: lengths, shape (batch,).

    Returns:
        tensor of the shape of `x`; steps from `length` on are unchanged.
    """
    step = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    index = torch.where(step < lengths, lengths - 1 - step, step)
    return _ReverseWithinLengths.apply(x, index)  # type: ignore[no-any-return, no-untyped-call]


class RecurrentLayer(nn.Module):
    """One recurrent layer, in one direction or both.

    Maps (time, batch, input_size) to (time, batch, hidden_size * directions).
    """

    def __init__(self, cell: str, input_size: int, hidden_size: int, bidirectional: bool) -> None:
        super().__init__()
        self.forwards = _CELLS[cell](input_size, hidden_size)
        self.backwards = _CELLS[cell](input_size, hidden_size) if bidirectional else None

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the states of every step; those past a sequence's length are meaningless."""
        states: Tensor = self.forwards(x)[0]
        if self.backwards is None:
            return states
        reverse: Tensor = self.backwards(reverse_within_lengths(x, lengths))[0]
        return torch.cat([states, reverse_within_lengths(reverse, lengths)], dim=-1)

    def reset_parameters(self) -> None:
        """Initialise: orthogonal recurrence, LSTM forget gates open."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "weight_hh" in name:
                    for gate in torch.split(parameter, self.forwards.hidden_size):
                        nn.init.orthogonal_(gate)
                elif "weight_ih" in name:
                    nn.init.xavier_uniform_(parameter)
                else:
                    parameter.zero_()
                    if isinstance(self.forwards, nn.LSTM) and "bias_ih" in name:
                        nn.init.ones_(torch.split(parameter, self.forwards.hidden_size)[1])


def _layer(config: ModelConfig, input_size: int) -> RecurrentLayer | MinGRULayer:
    if config.cell == "mingru":
        return MinGRULayer(input_size, config.hidden_size, config.bidirectional)
    return RecurrentLayer(config.cell, input_size, config.hidden_size, config.bidirectional)


class SentimentNetwork(nn.Module):
    """Recurrent network that maps token ids to one logit per review.

    Max and mean pooling over all states follow Johnson & Zhang (2016), "Supervised and Semi-Supervised Text
    Categorization using LSTM for Region Embeddings"; dropping one mask per sequence on the embeddings follows Gal &
    Ghahramani (2016), "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks".
    """

    def __init__(self, vocabulary_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_size, padding_idx=PAD_ID)
        width = config.hidden_size * (2 if config.bidirectional else 1)
        self.layers = nn.ModuleList(_layer(config, width if i else config.embedding_size) for i in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width * len(config.pooling), 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise: small embeddings, and each layer as its cell needs."""
        nn.init.normal_(self.embedding.weight, std=0.1)
        with torch.no_grad():
            self.embedding.weight[PAD_ID].zero_()
        for layer in self.layers:
            layer.reset_parameters()  # type: ignore[operator]

    def tabulate(self) -> tuple[Tensor, Tensor] | None:
        """Return what the first layer computes of each token of the vocabulary, if that needs no other token.

        With this table, :meth:`forward` looks up what it otherwise computes anew for each occurrence of a token.
        """
        first = self.layers[0]
        return first.project(self.embedding.weight) if isinstance(first, MinGRULayer) else None

    def forward(self, ids: Tensor, lengths: Tensor, table: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return logits of the positive class.

        Args:
            ids: token ids padded at the end with 0, shape (batch, time).
            lengths: number of tokens of each review, at least 1, shape (batch,).
            table: what :meth:`tabulate` returned, in evaluation only: it knows nothing of dropout.

        Returns:
            logits in float32, shape (batch,).
        """
        if table is None:
            x = self.layers[0](self._embed(ids), lengths)
        else:
            x = self.layers[0].scan(*(F.embedding(ids.t(), column) for column in table), lengths)  # type: ignore[operator]
        for layer in self.layers[1:]:
            x = layer(self.dropout(x), lengths)
        pooled = torch.cat([self._pool(kind, x, lengths) for kind in self.config.pooling], dim=-1)
        logits: Tensor = self.classifier(self.dropout(pooled)).squeeze(-1)
        return logits.float()

    def _embed(self, ids: Tensor) -> Tensor:
        """Map (batch, time) to (time, batch, embedding_size)."""
        if self.training and self.config.word_dropout:
            dropped = torch.rand(ids.shape, device=ids.device) < self.config.word_dropout
            ids = torch.where(dropped, UNKNOWN_ID, ids)
        x: Tensor = self.embedding(ids.t())
        if self.training and self.config.embedding_dropout:
            keep = 1.0 - self.config.embedding_dropout
            x = x * (torch.rand(x.shape[1:], device=x.device) < keep).to(x.dtype) / keep
        return x

    def _pool(self, kind: str, states: Tensor, lengths: Tensor) -> Tensor:
        """Reduce (time, batch, width) to (batch, width), without the padding."""
        if kind == "last":
            last = states[lengths - 1, torch.arange(states.shape[1], device=states.device)]
            if not self.config.bidirectional:
                return last
            return torch.cat([last[:, : self.config.hidden_size], states[0, :, self.config.hidden_size :]], dim=-1)
        return masked_max(states, lengths) if kind == "max" else masked_mean(states, lengths)


class SentimentModel(nn.Module):
    """What predictions are made with: the recurrent network, and the wide part where the configuration has one.

    The network is trained alone; the wide part is fitted beside it, scaled so that the sum is the model's logit.
    """

    def __init__(self, vocabulary_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.recurrent = SentimentNetwork(vocabulary_size, config)
        self.wide = NGramScore(config.ngrams) if config.ngrams else None

    def forward(self, ids: Tensor, lengths: Tensor, table: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the logits of the parts, whose sum is the logit of the positive class.

        Args:
            ids: token ids padded at the end with 0, shape (batch, time).
            lengths: number of tokens of each review, at least 1, shape (batch,).
            table: what :meth:`SentimentNetwork.tabulate` returned, in evaluation only.

        Returns:
            the recurrent part's logits and the wide part's (zeros where there is none), float32, shape (batch, 2).
        """
        recurrent = self.recurrent(ids, lengths, table)
        wide = torch.zeros_like(recurrent) if self.wide is None else self.wide(ids, lengths)
        return torch.stack([recurrent, wide], dim=1)
