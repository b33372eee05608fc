"""Pretraining: the recurrent layers learn to predict the next token of reviews, with or without labels.

A classifier that starts from there needs far fewer labelled reviews: Dai & Le (2015), "Semi-supervised Sequence
Learning". Each direction predicts in the order in which it reads, as in Peters et al. (2018), "Deep Contextualized
Word Representations". The tokens that it might have been are compared by their embeddings, the ones that are read too
(Press & Wolf 2017, "Using the Output Embedding to Improve Language Models").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sentiment_model.config import ModelConfig, TrainConfig
from sentiment_model.networks.arithmetic import as_array, has_loops
from sentiment_model.networks.batching import TokenizedReviews, plan_batches
from sentiment_model.networks.inference import autocast
from sentiment_model.networks.network import PAD_ID, Encoder
from sentiment_model.training.history import Observer, PretrainingMetrics
from sentiment_model.training.loop import run_training
from sentiment_model.training.softmax_loop import LARGEST_MARGIN, odds_against

NEGATIVES = 1024
"""Draws of tokens that the next one is told from; what is drawn twice counts once."""

_SMOOTHING = 0.75  # of the tokens' frequencies, as in Mikolov et al. (2013)
_ROWS = 512  # predictions that a CPU computes at a time, so that their logits stay in a core's cache
_VALIDATION_REVIEWS = 500
_VALIDATION_TOKENS = 8192
_COUNTED_TOKENS = 1 << 17  # at a time
_MOST_STEPS = 8192  # more tokens are read in larger batches


@dataclass(frozen=True)
class _Recipe:
    """How tokens are learned from; the shares are of dropout, of which a classifier of few reviews wants far more."""

    learning_rate: float
    dropout: float


_FEW_PASSES = 5
_FEW = _Recipe(learning_rate=4e-3, dropout=0.1)  # no token is seen often: dropout would only blur it
_MANY = _Recipe(learning_rate=3e-3, dropout=0.2)  # of 15 passes, the last ones would be learned by heart


def pretrain(
    reviews: TokenizedReviews,
    validation_reviews: TokenizedReviews,
    vocabulary_size: int,
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    device: torch.device,
    checkpoint: Path,
    observer: Observer | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train an encoder to predict the next token, until it has read about `config.pretraining_tokens`.

    Args:
        reviews: reviews, whose labels are not looked at.
        validation_reviews: others, that choose the epoch.
        vocabulary_size: number of token ids.
        model_config: architecture.
        config: optimisation.
        device: where to compute.
        checkpoint: file from which an interrupted training resumes.
        observer: is told how it goes.
        start: tensors of the encoder's state to start from, instead of random ones.

    Returns:
        the encoder's state.

    Raises:
        ModelError: the loss is no longer finite, or the checkpoint is damaged.
    """
    budget, tokens = config.pretraining_tokens, reviews.tokens
    reviews = reviews.take(torch.arange(0, len(reviews), max(1, round(tokens / budget))))  # evenly spaced
    passes = max(1, round(budget / tokens))
    recipe = _FEW if passes <= _FEW_PASSES else _MANY
    torch.manual_seed(config.seed)
    frequencies = torch.zeros(vocabulary_size, dtype=torch.int64)
    for batch in plan_batches(reviews.lengths, _COUNTED_TOKENS):
        ids, _ = reviews.batch(batch.rows, batch.padded_length)
        frequencies += torch.bincount(ids.flatten(), minlength=vocabulary_size)  # padding has no chance, see below
    dropout = {"word_dropout": 0.0, "embedding_dropout": recipe.dropout, "dropout": recipe.dropout}
    encoder = Encoder(vocabulary_size, model_config.model_copy(update=dropout))
    encoder.load_state_dict({**encoder.state_dict(), **(start or {})})
    model = LanguageModel(encoder, frequencies).to(device)
    every = -(-len(validation_reviews) // _VALIDATION_REVIEWS)
    some = validation_reviews.take(torch.arange(0, len(validation_reviews), every))
    trained = run_training(
        _NextToken(model, reviews, some, config.seed, device),
        config.model_copy(
            update={
                "epochs": passes,
                "tokens_per_batch": max(config.tokens_per_batch, budget // _MOST_STEPS),
                "learning_rate": recipe.learning_rate,
                "ema_decay": 0.0,  # in so few steps the average lags behind
            }
        ),
        device=device,
        checkpoint=checkpoint,
        observer=observer,
    )
    model.load_state_dict(trained.weights)
    return {name: tensor.cpu() for name, tensor in model.encoder.state_dict().items()}


@dataclass
class _NextToken:
    """To predict the next token."""

    network: "LanguageModel"
    reviews: TokenizedReviews
    validation_reviews: TokenizedReviews
    seed: int
    device: torch.device

    def loss(self, network: nn.Module, rows: Tensor, padded_length: int) -> Tensor:
        return self._loss(network, *self.reviews.batch(rows, padded_length))

    def count(self, rows: Tensor) -> int:
        return self._predictions(self.reviews.lengths[rows])

    def validate(self, network: nn.Module) -> dict[str, float]:
        held_out, total = self.validation_reviews, 0.0
        network.eval()
        torch.manual_seed(self.seed)  # the same drawn tokens each time
        with torch.inference_mode(), autocast(self.device):
            for batch in plan_batches(held_out.lengths, _VALIDATION_TOKENS):
                total += self._loss(network, *held_out.batch(batch.rows, batch.padded_length)).item()
        return {"validation_loss": total / max(1, self._predictions(held_out.lengths))}

    def _loss(self, network: nn.Module, ids: Tensor, lengths: Tensor) -> Tensor:
        loss: Tensor = network(ids.to(self.device), lengths.to(self.device))
        return loss

    def _predictions(self, lengths: Tensor) -> int:
        return len(self.network.back) * int((lengths - 1).clamp(min=0).sum())

    def report(self, observer: Observer, metrics: dict[str, Any]) -> None:
        observer.on_epoch(PretrainingMetrics(**metrics))


class LanguageModel(nn.Module):
    """Predicts the next token: an encoder, and for each of its directions a way back to embeddings.

    Args:
        encoder: the encoder.
        frequencies: how often each token occurs, shape (vocabulary,).
    """

    log_frequency: Tensor
    draw_share: Tensor

    def __init__(self, encoder: Encoder, frequencies: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        config = encoder.config
        self.back = nn.ModuleList(nn.Linear(config.hidden_size, config.embedding_size) for _ in encoder.directions)
        counts = frequencies.double().index_fill(0, torch.tensor([PAD_ID]), 0.0)
        smoothed = counts**_SMOOTHING
        self.register_buffer("log_frequency", (counts.clamp(min=1.0) / counts.sum()).log().float())
        self.register_buffer("draw_share", (smoothed / smoothed.sum()).float())

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the sum over all tokens but each direction's first of the loss, in nats, of telling it from others.

        Args:
            ids: token ids padded at the end with 0, shape (batch, time).
            lengths: number of tokens of each review, at least 1, shape (batch,).
        """
        drawn = torch.unique(torch.multinomial(self.draw_share, NEGATIVES, replacement=True))
        # What each stands for: the inverse of the chance that it is among the drawn.
        log_chance = torch.log(-torch.expm1(NEGATIVES * torch.log1p(-self.draw_share[drawn])))
        is_read = torch.arange(1, ids.shape[1], device=ids.device).unsqueeze(1) < lengths
        places = torch.full((len(self.draw_share),), -1, device=ids.device)
        places[drawn] = torch.arange(len(drawn), device=ids.device)
        # By their numbers, since a selection by a mask adds up its gradient as if it might hold a state twice.
        (read_at,) = torch.nonzero(is_read.flatten(), as_tuple=True)
        read = [
            (ordered[1:].flatten()[read_at], states[:-1].flatten(0, 1).index_select(0, read_at))
            for ordered, states in self.encoder(ids, lengths)
        ]
        # In one look-up, since its gradient is as large as the embedding.
        looked_up = [following for following, _ in read] + [drawn]
        *rights, others = self.encoder.embedding(torch.cat(looked_up)).split([len(tokens) for tokens in looked_up])
        losses: list[Tensor] = [
            _SampledSoftmax.apply(  # type: ignore[no-untyped-call]
                back(states).to(right.dtype),
                right,
                others,
                self.log_frequency[following],
                self.log_frequency[drawn] - log_chance,
                places[following],
            )
            for back, right, (following, states) in zip(self.back, rights, read, strict=True)
        ]
        return torch.stack(losses).sum()


class _SampledSoftmax(torch.autograd.Function):
    """Sum of the cross-entropies of a softmax over the right class and drawn ones; its gradient is written out.

    Importance sampling of the softmax's denominator, as in Bengio & Senécal (2003), "Quick Training of Probabilistic
    Neural Nets by Importance Sampling". Logits are computed for a few predictions at a time, and never kept.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, right: Tensor, drawn: Tensor, right_bias: Tensor, drawn_bias: Tensor, places: Tensor
    ) -> Tensor:
        """Return the sum.

        Args:
            ctx: autograd's context.
            x: what to compare with classes, shape (predictions, width).
            right: vectors of the right classes, shape (predictions, width).
            drawn: vectors of the drawn classes, shape (drawn, width).
            right_bias: shape (predictions,).
            drawn_bias: shape (drawn,).
            places: the right class's number among the drawn ones, or -1, shape (predictions,).
        """
        device = x.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        low_x, low_drawn, low_bias = x.to(low), drawn.to(low), drawn_bias.to(low)
        right_logits = (x * right).sum(dim=1) + right_bias
        gradient_x, gradient_drawn = torch.empty_like(x), torch.zeros_like(drawn)
        missed = torch.empty_like(right_logits)
        rows_at_once = _ROWS if device == "cpu" else max(1, len(x))
        for start in range(0, len(x), rows_at_once):
            rows = slice(start, start + rows_at_once)
            logits = torch.addmm(low_bias, low_x[rows], low_drawn.t())
            odds, missed[rows] = _odds_against(logits, right_logits[rows], places[rows])
            chance = missed[rows].unsqueeze(1)
            gradient_x[rows] = (odds @ low_drawn).to(x.dtype) * chance
            gradient_drawn += odds.t() @ (low_x[rows] * chance.to(low))
        loss = -missed.log().sum()
        missed -= 1.0  # gradient of the right logit
        gradient_x.addcmul_(missed.unsqueeze(1), right)
        ctx.save_for_backward(x, missed, gradient_x, gradient_drawn)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, right_logits, gradient_x, gradient_drawn = ctx.saved_tensors
        (scale,) = gradients
        return gradient_x * scale, x * (right_logits * scale).unsqueeze(1), gradient_drawn * scale, None, None, None


def _odds_against(logits: Tensor, right_logits: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the odds of drawn classes against the right one, and the chance of the right one among all.

    Args:
        logits: of the drawn classes, shape (predictions, drawn).
        right_logits: of the right class, shape (predictions,).
        places: the right class's number among the drawn ones, whose odds are 0, or -1, shape (predictions,).
    """
    if has_loops(logits):
        odds, chances = torch.empty_like(logits), torch.empty_like(right_logits)
        odds_against(*(as_array(tensor) for tensor in (logits, right_logits, places, odds, chances)))
        return odds, chances
    odds = (logits.to(right_logits.dtype) - right_logits.unsqueeze(1)).clamp_(max=LARGEST_MARGIN).exp_()
    (among,) = torch.nonzero(places >= 0, as_tuple=True)
    odds[among, places[among]] = 0.0
    return odds.to(logits.dtype), 1.0 / (1.0 + odds.sum(dim=1))
