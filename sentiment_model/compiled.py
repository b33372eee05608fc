"""Loops that are compiled when they are first used, and kept for the next process where there is a place for that."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from numba.core.caching import FunctionCache
from numpy.typing import NDArray

Loop = TypeVar("Loop", bound=Callable[..., object])
Result = TypeVar("Result")


def compiled(loop: Loop) -> Loop:
    """Compile a loop over arrays, beside which other threads run.

    A product and the sum with it may become one instruction, which rounds once in place of twice. What divides by zero
    gets what float32 has for that. Nothing else is left to the compiler: sums are added in the order in which they are
    written.
    """
    found: Any = numba.njit(loop, nogil=True, fastmath={"contract"}, error_model="numpy")
    with suppress(RuntimeError):  # nothing can be written, neither beside the code nor in the user's cache
        found._cache = _Cache(loop)  # type: ignore[no-untyped-call]
    return cast("Loop", found)


def in_threads(work: Callable[[int, int], Result], ends: NDArray[np.int64], at_once: int) -> list[Result]:
    """Return what `work` makes of shares of the rows, one after the other; a share is about as much for each thread.

    Args:
        work: is given the first row of a share and the one after its last, and runs a loop over them.
        ends: where each row ends, counted in what makes it long, shape (rows,).
        at_once: how much of that a share has.
    """
    bounds = [0, *np.flatnonzero(np.diff(ends // at_once)) + 1, len(ends)]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(work, bounds[:-1], bounds[1:]))


def share_out(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """Let each of some threads do an equal share of `count` rows; `work` is as for :func:`in_threads`."""
    shares = min(threads, count)
    if shares <= 1:
        work(0, count)
        return
    bounds = [count * share // shares for share in range(shares + 1)]
    with ThreadPoolExecutor(shares) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))


class _Cache(FunctionCache):
    """Numba's, which knows a loop by its own file only, and ends the program where what it kept is damaged."""

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), _sources())  # type: ignore[no-untyped-call]

    @contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            with suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]


@cache
def _sources() -> str:
    """Return a hash of all that a loop may have its constants from."""
    here = Path(__file__)
    rooms = ("networks", "text", "training")
    files = sorted([here, *(path for room in rooms for path in here.with_name(room).glob("*.py"))])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
