"""From what a network answers to the logit and the probability of each class.

Of two classes one number says all: the logit of the second, where that of the first is 0. Of more, there is one each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def count_outputs(classes: int) -> int:
    """Return how many numbers a network answers for a review."""
    return 1 if classes == 2 else classes


def logits_of(answers: Tensor) -> Tensor:
    """Return the logits of all classes, shape (..., classes), from what a network answered, shape (..., outputs)."""
    return F.pad(answers, (1, 0)) if answers.shape[-1] == 1 else answers


def answers_of(logits: Tensor) -> Tensor:
    """Return the answers, shape (..., outputs), with logits that differ by a constant from these of all classes."""
    return logits[..., 1:] - logits[..., :1] if logits.shape[-1] == 2 else logits


def probabilities_of(answers: Tensor, temperature: float) -> Tensor:
    """Return the calibrated probabilities of all classes, float64, shape (reviews, classes).

    Args:
        answers: of a network, shape (reviews, outputs).
        temperature: divisor of the logits.
    """
    scaled = answers.double() / temperature
    if scaled.shape[-1] == 1:
        return torch.sigmoid(torch.cat([-scaled, scaled], dim=-1))
    return scaled.softmax(dim=-1)


def shares_of(labels: Tensor, classes: int) -> Tensor:
    """Return how much of each review is of each class, float32, shape (reviews, classes).

    Args:
        labels: numbers of classes, shape (reviews,), or already such shares.
        classes: how many there are.
    """
    return labels if labels.ndim == 2 else F.one_hot(labels.long(), classes).float()
