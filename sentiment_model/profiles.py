"""Named settings of a training run, by the time and the machine that they are for.

A profile gives defaults only: what a run names itself goes before it.
"""

from typing import Any, Literal

Profile = Literal["quick", "default", "nightly", "gpu"]

# Section -> field -> value, where it differs from the field's own default, which is that of the default profile.
PROFILES: dict[Profile, dict[str, dict[str, Any]]] = {
    "quick": {
        "model": {"hidden_size": 32, "embedding_size": 64},
        "train": {"epochs": 2, "learning_rate": 8e-3, "ema_decay": 0.99},
    },
    "default": {},
    "nightly": {
        "tokenize": {"max_vocabulary": 40_000},
        "model": {
            "cell": "qrnn",
            "layers": 2,
            "hidden_size": 512,
            "bidirectional": False,
            "embedding_size": 256,
            "word_dropout": 0.2,
            "dropout": 0.3,
        },
        "train": {"epochs": 3, "pretraining_tokens": 55_000_000, "distillation": True},
    },
    # cuDNN's persistent kernels take sizes that are multiples of 128.
    "gpu": {
        "tokenize": {"max_vocabulary": 50_000},
        "model": {"cell": "lstm", "layers": 2, "hidden_size": 512, "embedding_size": 256},
        "train": {
            "epochs": 12,
            "learning_rate": 1e-3,
            "tokens_per_batch": 65_536,
            "patience": 3,
            "pretraining_tokens": 100_000_000,
        },
    },
}
