"""What compiled loops over tensors compute with.

Numba does not know bfloat16, and computes one exponential at a time; both are here. The loops are written once for
every precision: a number is read in that in which is computed, and written in that of the array.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from sentiment_model.compiled import compiled, share_out

Numbers = NDArray[Any]
"""Of float32, float64 or, as :func:`as_array` has it, bfloat16."""

# Cephes' `expf`: 2^n e^r for the nearest n, ln 2 in two parts so that r is exact, and a polynomial for e^r.
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(88.0)  # beyond, a float32 is denormal or infinite
_LOG2_E = np.float32(1.44269504)
_LN_2, _LN_2_REST = np.float32(0.693359375), np.float32(-2.12194440e-4)
_E0, _E1, _E2, _E3, _E4, _E5 = (
    np.float32(factor)
    for factor in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_BIAS, _FRACTION_BITS = np.int32(127), np.int32(23)
_HALF, _ONE = np.float32(0.5), np.float32(1.0)
_WORTH_THREADS = 1 << 21  # numbers
_LOWER_BITS, _BELOW_HALF, _LAST_BIT = np.uint32(16), np.uint32(0x7FFF), np.uint32(1)


def has_loops(tensor: Tensor) -> bool:
    """Return whether a tensor is where compiled loops run."""
    return tensor.device.type == "cpu"


def as_array(tensor: Tensor) -> Numbers:
    """Return the numbers of a contiguous tensor on the CPU, without a copy; those of bfloat16 as their 16 bits."""
    tensor = tensor.detach()
    numbers: Numbers = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return numbers


def run_loop(loop: Callable[..., None], rows: int, *arguments: object) -> None:
    """Run a loop whose last arguments are the first row and the one after the last.

    Each thread has its share of the rows, unless there is so little to do that starting threads would take longer.

    Args:
        loop: the loop.
        rows: how many there are.
        arguments: the others; tensors are passed as :func:`as_array` has them.
    """
    given = [as_array(argument) if isinstance(argument, Tensor) else argument for argument in arguments]
    if max(argument.numel() for argument in arguments if isinstance(argument, Tensor)) < _WORTH_THREADS:
        loop(*given, 0, rows)
    else:
        share_out(lambda first, end: loop(*given, first, end), rows, torch.get_num_threads())


def read(number: Any) -> Any:
    """Return, in a compiled loop, a number of an array as float32, or float64 where it is one."""
    raise NotImplementedError


@overload(read, strict=False)
def _read(number: types.Type) -> Callable[[Any], Any]:
    if number == types.uint16:
        return lambda number: np.uint32(np.uint32(number) << _LOWER_BITS).view(np.float32)
    return lambda number: number


def write(array: Any, place: Any, number: Any) -> None:
    """Write, in a compiled loop, a number into an array of one dimension; to bfloat16 it is rounded to the nearest."""
    raise NotImplementedError


@overload(write, strict=False)
def _write(array: types.Array, place: types.Type, number: types.Type) -> Callable[[Any, Any, Any], None]:  # noqa: ARG001 - as above
    if array.dtype == types.uint16:
        return _write_bfloat16

    def as_it_is(array: Any, place: Any, number: Any) -> None:
        array[place] = number

    return as_it_is


def _write_bfloat16(array: Any, place: Any, number: Any) -> None:
    bits = np.float32(number).view(np.uint32)
    array[place] = np.uint16((bits + _BELOW_HALF + ((bits >> _LOWER_BITS) & _LAST_BIT)) >> _LOWER_BITS)


def exp(x: Any) -> Any:
    """Return, in a compiled loop, e^x; of float32 within a unit in the last place, and never less than 1e-38."""
    raise NotImplementedError


@overload(exp, strict=False)
def _exp(x: types.Type) -> Callable[[Any], Any]:
    return _exp_float32 if x == types.float32 else lambda x: math.exp(x)


def _exp_float32(x: Any) -> Any:
    x = min(max(x, _LOWEST), _HIGHEST)
    n = np.floor(x * _LOG2_E + _HALF)
    r = x - n * _LN_2 - n * _LN_2_REST
    polynomial = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    power = np.int32(np.int32(np.int32(n) + _BIAS) << _FRACTION_BITS).view(np.float32)
    return (polynomial * (r * r) + r + _ONE) * power


@compiled
def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e^-x)."""
    return _ONE / (_ONE + exp(-x))
