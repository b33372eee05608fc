"""Poolings against each sequence alone, and their gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sentiment_model.networks.pooling import masked_max, masked_mean, masked_pool, pool

Pool = Callable[[Tensor, Tensor], Tensor]
LENGTHS = torch.tensor([3, 20, 7, 1, 12])


@pytest.mark.parametrize(("pool", "alone"), [(masked_max, torch.amax), (masked_mean, torch.mean)])
# All steps but the first with padding, the first ten without, steps that are padding alone, and no padding.
@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS + 9, LENGTHS + 4, torch.full((5,), 29), torch.ones(5).long()])
def test_pooling_is_that_of_each_sequence_alone(pool: Pool, alone: Callable[..., Tensor], lengths: Tensor) -> None:
    torch.manual_seed(1)
    states = torch.randn(29, 5, 2, dtype=torch.float64, requires_grad=True)
    pooled = pool(states, lengths)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(pooled[row], alone(states[:length, row], dim=0), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda x: pool(x, lengths), states)


@pytest.mark.parametrize("kinds", [("last",), ("max",), ("mean",), ("mean", "last"), ("last", "max", "mean")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loops_pool_as_the_masks_do(kinds: tuple[str, ...], dtype: torch.dtype) -> None:
    """What a CPU computes against what is there for GPUs, with equal maxima among the states."""
    torch.manual_seed(2)
    states = torch.randint(-3, 4, (29, 5, 6)).to(dtype).requires_grad_()
    pooled = pool(states, LENGTHS, kinds)
    assert pooled.dtype == torch.promote_types(dtype, torch.float32)
    expected = torch.cat([masked_pool(kind, states, LENGTHS) for kind in kinds], dim=-1)
    close = 2e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(pooled, expected.to(pooled.dtype), rtol=close, atol=close)
    weights = torch.randn_like(pooled)
    (found,), (wanted,) = (torch.autograd.grad((out * weights).sum(), states) for out in (pooled, expected))
    torch.testing.assert_close(found, wanted, rtol=close, atol=close)
    assert not found[3:, 0].any(), "padding gets none"


def test_equal_maxima_share_the_gradient_and_equal_padding_gets_none() -> None:
    states = torch.tensor([[1.0, 3.0], [2.0, 3.0], [2.0, 3.0], [2.0, 1.0]]).unsqueeze(-1).requires_grad_()
    pooled = masked_max(states, torch.tensor([4, 2]))
    (pooled.squeeze(-1) * torch.tensor([6.0, 10.0])).sum().backward()
    assert states.grad is not None
    assert states.grad.squeeze(-1).t().tolist() == [[0.0, 2.0, 2.0, 2.0], [5.0, 5.0, 0.0, 0.0]]


@pytest.mark.parametrize("pool", [masked_max, masked_mean])
def test_half_precision_states_lose_nothing_in_a_long_sum(pool: Pool) -> None:
    states = torch.ones(3000, 1, 4, dtype=torch.bfloat16, requires_grad=True)
    pooled = pool(states, torch.tensor([3000]))
    assert pooled.dtype == (torch.bfloat16 if pool is masked_max else torch.float32)
    assert pooled.tolist() == [[1.0] * 4]
    pooled.sum().backward()
    assert states.grad is not None
    torch.testing.assert_close(
        states.grad.sum(dim=0, dtype=torch.float64), torch.ones(1, 4).double(), rtol=1e-2, atol=0
    )
