"""Named settings of a training run, by the time and the machine that they are for.

A profile gives defaults only: what a run names itself goes before it.
"""

from typing import Any, Literal

Profile = Literal["quick", "default", "nightly", "gpu"]

# Section -> field -> value, where it differs from the field's own default, which is that of the default profile.
PROFILES: dict[Profile, dict[str, dict[str, Any]]] = {
    "quick": {"train": {"epochs": 2}},
    "default": {},
    "nightly": {
        "tokenize": {"max_vocabulary": 40_000},
        "model": {
            "cell": "qrnn",
            "layers": 2,
            "hidden_size": 512,
            "bidirectional": False,
            "embedding_size": 256,
            "pooling": ("max", "mean"),
            "word_dropout": 0.2,
            "dropout": 0.3,
        },
        "train": {
            "epochs": 3,
            "learning_rate": 4e-3,
            "ema_decay": 0.998,
            "pretraining_tokens": 55_000_000,
            "distillation": True,
        },
    },
    "gpu": {
        "tokenize": {"max_vocabulary": 40_000},
        "model": {
            "cell": "qrnn",
            "layers": 3,
            "hidden_size": 1152,
            "embedding_size": 384,
            "pooling": ("max", "mean"),
            "word_dropout": 0.2,
            "dropout": 0.3,
        },
        "train": {"epochs": 4, "learning_rate": 2e-3, "ema_decay": 0.998, "pretraining_tokens": 280_000_000},
    },
}
