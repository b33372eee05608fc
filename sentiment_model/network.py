"""The recurrent classifier: embedding -> recurrent layers -> masked pooling -> linear.

Batches are padded at the end and carry their lengths. A review's logit depends on its own tokens alone: the
backward direction starts at each review's own last token, and pooling sees no padding. Each direction is a network
of its own, because PyTorch's bidirectional modules start the backward one in the padding unless the batch is packed,
and packed sequences are many times slower on CPU.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sentiment_model.config import ModelConfig
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
        self.layers = nn.ModuleList(
            RecurrentLayer(
                config.cell, config.embedding_size if i == 0 else width, config.hidden_size, config.bidirectional
            )
            for i in range(config.layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width * len(config.pooling), 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise: small embeddings, orthogonal recurrence, LSTM forget gates open."""
        nn.init.normal_(self.embedding.weight, std=0.1)
        with torch.no_grad():
            self.embedding.weight[PAD_ID].zero_()
            for name, parameter in self.layers.named_parameters():
                if "weight_hh" in name:
                    for gate in torch.split(parameter, self.config.hidden_size):
                        nn.init.orthogonal_(gate)
                elif "weight_ih" in name:
                    nn.init.xavier_uniform_(parameter)
                else:
                    parameter.zero_()
                    if self.config.cell == "lstm" and "bias_ih" in name:
                        parameter[self.config.hidden_size : 2 * self.config.hidden_size] = 1.0

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return logits of the positive class.

        Args:
            ids: token ids padded at the end with 0, shape (batch, time).
            lengths: number of tokens of each review, at least 1, shape (batch,).

        Returns:
            logits in float32, shape (batch,).
        """
        if self.training and self.config.word_dropout:
            dropped = torch.rand(ids.shape, device=ids.device) < self.config.word_dropout
            ids = torch.where(dropped, UNKNOWN_ID, ids)
        x = self.embedding(ids.t())
        if self.training and self.config.embedding_dropout:
            keep = 1.0 - self.config.embedding_dropout
            x = x * (torch.rand(x.shape[1:], device=x.device) < keep).to(x.dtype) / keep
        for i, layer in enumerate(self.layers):
            x = layer(self.dropout(x) if i else x, lengths)
        pooled = torch.cat([self._pool(kind, x, lengths) for kind in self.config.pooling], dim=-1)
        logits: Tensor = self.classifier(self.dropout(pooled)).squeeze(-1)
        return logits.float()

    def _pool(self, kind: str, states: Tensor, lengths: Tensor) -> Tensor:
        """Reduce (time, batch, width) to (batch, width), without the padding."""
        if kind == "last":
            last = states[lengths - 1, torch.arange(states.shape[1], device=states.device)]
            if not self.config.bidirectional:
                return last
            return torch.cat([last[:, : self.config.hidden_size], states[0, :, self.config.hidden_size :]], dim=-1)
        return masked_max(states, lengths) if kind == "max" else masked_mean(states, lengths)
