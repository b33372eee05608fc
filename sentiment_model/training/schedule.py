"""The learning rate of each step."""

import math

from sentiment_model.config import TrainConfig


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, counted from 0.

    `one-cycle` follows Smith & Topin (2018), "Super-Convergence": a cosine rise from 1/25 of the peak over the warm-up
    share, then a cosine fall to nearly zero. `cosine` rises linearly from zero instead.
    """
    warmup = max(1, round(config.warmup_share * total_steps))
    if step < warmup:
        if config.schedule == "cosine":
            return config.learning_rate * (step + 1) / warmup
        rise = (1 - math.cos(math.pi * step / warmup)) / 2
        return config.learning_rate * (0.04 + 0.96 * rise)
    fall = (step - warmup) / max(1, total_steps - warmup)
    return config.learning_rate * max(1e-4, (1 + math.cos(math.pi * fall)) / 2)
