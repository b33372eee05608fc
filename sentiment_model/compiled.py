"""Loops that are compiled when they are first used, and kept for the next process where there is a place for that."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import numba

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(loop: Loop) -> Loop:
    """Compile a loop over arrays, beside which other threads run.

    A product and the sum with it may become one instruction, which rounds once in place of twice. What divides by zero
    gets what float32 has for that. Nothing else is left to the compiler: sums are added in the order in which they are
    written.
    """
    compile_loop = partial(numba.njit, nogil=True, fastmath={"contract"}, error_model="numpy")
    try:
        return cast("Loop", compile_loop(loop, cache=True))
    except RuntimeError:  # nothing can be written, neither beside the code nor in the user's cache
        return cast("Loop", compile_loop(loop))
