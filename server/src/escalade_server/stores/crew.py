"""What the workers of a server agree on beside the ledger: locks on bytes of one file (P17, P18).

The supervisor makes the file, without a name, and its workers inherit it. A record lock belongs to
a process, and the kernel gives it back however that process ends: so who is dead is known at once
and for certain, and one who only sleeps is never taken for dead. Bytes of the file:

- ``TURN``: who writes the ledger now. SQLite's own lock is polled, and starves some (P17).
- ``LEAD``: who does what is done once: reports, notices, cleaning, news of shared state.
- ``OWNERS`` and on: one for each owner of reservations that lives.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from escalade_server.engine.ports import Duty

TURN, LEAD, OWNERS = 0, 1, 16


class Crew:
    """One worker's hand on the file; its locks end with the process."""

    def __init__(self, handle: int, number: int = 1, *, first: bool = False) -> None:
        """Take the inherited file; closing any handle of it would let go of every lock.

        ``first`` says that no other worker has begun yet.
        """
        self._handle = handle
        self.number = number
        """Counted from 1; a worker that takes a dead one's place has its number."""
        self.first = first
        self._owner = 0
        self._leads = False

    @staticmethod
    def make() -> int:
        """Make the file, for the supervisor to hand on."""
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until nobody else writes, and let nobody else meanwhile; on one thread only."""
        fcntl.lockf(self._handle, fcntl.LOCK_EX, 1, TURN)
        try:
            yield
        finally:
            fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, TURN)

    def lead(self) -> bool:
        """Take the lead if nobody has it; answer whether this process has it, until it ends."""
        self._leads = self._leads or self._take(LEAD)
        return self._leads

    def holds(self, duty: Duty) -> bool:  # noqa: ARG002 - the leader has all of them
        """See ``Leadership``."""
        return self.lead()

    def live(self, owner: int) -> None:
        """Be the living owner of reservations; before anybody else can know of it."""
        self._owner = owner
        self._take(OWNERS + owner)

    def is_dead(self, owner: int) -> bool:
        """Tell whether the process of an owner has ended; in a ``turn``, so that one asks."""
        if owner == self._owner or not self._take(OWNERS + owner):
            return False
        fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, OWNERS + owner)
        return True

    def _take(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True
