"""Loading libraries without looking for garbage among what they make, which stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Leave the garbage collector out while libraries load in the block, a sixth of whose time it would take.

    What has been loaded it does not search later either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
