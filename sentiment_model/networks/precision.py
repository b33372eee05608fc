"""The precision in which recurrences keep their states."""

import torch


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the precision of states: in bfloat16 a long review's would lose most of what each step adds."""
    return torch.promote_types(dtype, torch.float32)
