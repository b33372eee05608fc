"""Claims: who works on what, so that work is not done twice.

A claim is an object whose number is one above the last one's. Of several processes that try to create it, one does. A
claim is void when it was given up, when its process is gone from the machine of who asks, or when it has not been
renewed while somebody watched it for as long as a lease lasts. No two clocks are ever compared.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from obstore.exceptions import BaseError
from pydantic import BaseModel, Field

from sentiment_model.scoring.processes import machine, started
from sentiment_model.store.objects import Objects, new_writer

LEASE_SECONDS = 60.0
_held: set[str] = set()
"""The claims that threads of this process hold, by their writer's name."""


class Claim(BaseModel):
    """That a worker works on something.

    Attributes:
        format: version of this description.
        token: 1 for the first claim on the thing, 2 for the next: the fencing token.
        writer: names the claim's maker, and nobody else.
        machine: see :func:`sentiment_model.scoring.processes.machine`.
        process: the maker's process id.
        started: when that process started, see :func:`sentiment_model.scoring.processes.started`.
        renewals: how often the claim was renewed.
        given_up: whether its maker works no more.
    """

    format: Literal[1] = 1
    token: int
    writer: str = Field(default_factory=new_writer)
    machine: str = Field(default_factory=machine)
    process: int = Field(default_factory=os.getpid)
    started: int | None = Field(default_factory=lambda: started(os.getpid()))
    renewals: int = 0
    given_up: bool = False

    def is_void(self) -> bool:
        """Tell whether it is certain that nobody works under this claim."""
        if self.given_up:
            return True
        if self.machine != machine():
            return False
        if self.process == os.getpid() and self.started == started(os.getpid()):
            return self.writer not in _held
        return started(self.process) != self.started


class Claims:
    """The claims on one thing."""

    def __init__(self, objects: Objects, folder: str) -> None:
        """Look at the claims below a folder of a store."""
        self._objects = objects
        self._folder = folder
        self._seen: tuple[Claim, float] | None = None

    def last(self) -> Claim | None:
        """Return the newest claim, or None where there is none yet."""
        paths = [path for path, *_ in self._objects.list(self._folder) if path.endswith(".json")]
        return self._objects.load(Claim, max(paths)) if paths else None

    def take(self) -> Claim | None:
        """Create the next claim, unless another one is in force, which changes while it is watched for a lease.

        Whoever takes a claim has to enter :meth:`kept` with it.
        """
        last = self.last()
        if last is not None and not last.is_void():
            now = time.monotonic()
            if self._seen is None or self._seen[0] != last:
                self._seen = last, now
            if now - self._seen[1] < LEASE_SECONDS:
                return None
        claim = Claim(token=last.token + 1 if last else 1)
        _held.add(claim.writer)
        try:
            if self._objects.create(self._path(claim), claim.model_dump_json().encode()):
                return claim
        except BaseException:
            _held.discard(claim.writer)
            raise
        _held.discard(claim.writer)
        return None

    @contextmanager
    def kept(self, claim: Claim) -> Iterator[None]:
        """Renew a claim while the block lasts, and give it up where the block ends.

        A store that cannot be written then keeps nobody from its work: the claim may be taken over meanwhile, and
        what is done twice is published once.
        """
        stop = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(claim, stop), daemon=True)
        renewal.start()
        try:
            yield
        finally:
            stop.set()
            renewal.join()
            _held.discard(claim.writer)
            self._try_to_write(claim.model_copy(update={"given_up": True}))

    def _renew(self, claim: Claim, stop: threading.Event) -> None:
        renewals = 0
        while not stop.wait(LEASE_SECONDS / 4):
            renewals += 1
            self._try_to_write(claim.model_copy(update={"renewals": renewals}))

    def _try_to_write(self, claim: Claim) -> None:
        # The next renewal may succeed, and a claim that cannot be given up becomes void when nobody renews it.
        with suppress(OSError, BaseError):
            self._objects.replace(self._path(claim), claim.model_dump_json().encode())

    def _path(self, claim: Claim) -> str:
        return f"{self._folder}/{claim.token:06d}.json"
