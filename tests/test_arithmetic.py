"""What compiled loops compute with is what NumPy and PyTorch compute."""

import numpy as np
import pytest
import torch

from sentiment_model.compiled import compiled
from sentiment_model.networks.arithmetic import Numbers, as_array, exp, read, write


@compiled
def copy(values: Numbers, into: Numbers) -> None:
    """Write what is read."""
    for place in range(len(values)):
        write(into, place, read(values[place]))


@compiled
def exps(values: Numbers, into: Numbers) -> None:
    """Write exponentials."""
    for place in range(len(values)):
        into[place] = exp(values[place])


def test_bfloat16_is_rounded_as_pytorch_does() -> None:
    """Numbers of any size, ties to either side, infinities; and every bfloat16 there is comes back as it was."""
    torch.manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (100_000,)).int()
    ties = (bits & ~0xFFFF) | 0x8000
    numbers = torch.cat([bits, ties]).view(torch.float32)
    numbers = torch.cat([numbers[~numbers.isnan()], torch.tensor([torch.inf, -torch.inf, 0.0, -0.0, 3.4e38])])
    rounded = torch.empty_like(numbers, dtype=torch.bfloat16)
    copy(as_array(numbers), as_array(rounded))
    assert torch.equal(rounded, numbers.bfloat16())
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    widened, narrowed = torch.empty(2**16), torch.empty_like(every)
    copy(as_array(every), as_array(widened))
    copy(as_array(widened), as_array(narrowed))
    assert torch.equal(widened.view(torch.int32), every.float().view(torch.int32))
    assert torch.equal(narrowed.view(torch.int16), every.view(torch.int16))


@pytest.mark.parametrize(("kind", "error"), [(np.float32, 1.2e-7), (np.float64, 1e-15)])
def test_exponentials(kind: type[np.floating], error: float) -> None:
    values = np.linspace(-86.9, 87.9, 200_001).astype(kind)
    found = np.empty_like(values)
    exps(values, found)
    np.testing.assert_allclose(found.astype(np.float64), np.exp(values.astype(np.float64)), rtol=error)


def test_exponentials_far_out_are_finite_and_positive() -> None:
    found = np.empty(4, np.float32)
    exps(np.array([-np.inf, -1e30, 1e30, np.inf], np.float32), found)
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert found[1] < 1e-37
    assert found[2] > 1e38
