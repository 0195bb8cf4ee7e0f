"""What the workers of one server show of each other: a status tells of all, whoever is asked."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from escalade_server.core.standing import VerdictClass


class Queued(NamedTuple):
    """One task that waits in another worker; instants in Unix ms."""

    agent: str
    request_id: str
    since_ms: int
    earliest_ms: int
    reason: VerdictClass
    rule: str


class Figures(NamedTuple):
    """What one worker has in flight."""

    running: int
    """Tasks whose books are not closed yet."""
    calls: Mapping[str, int]
    """Calls in flight that do not wait, by agent."""
    attempts: Mapping[str, int]
    """Attempts in flight by ``Model.key``."""
    waiters: Sequence[Queued]
    """In the order in which they would go."""


class Others(Protocol):
    """The other workers."""

    async def figures(self) -> Sequence[Figures]:
        """Ask each; one that does not answer in a moment is left out. Never raises."""
        ...
