"""How single tasks went, span by span, for whoever asks afterwards (``GetTrace``).

Made of the same spans as those for a tracer. Kept are tasks to which something happened, for a day
and in the shared state; of the others the last few, in this process.
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

KEPT_MS = 86_400_000
KEPT_MAX = 2_000
"""Traces in the shared state; of more, the newest."""


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """What happened at one instant (Unix ms) of a span."""

    name: str
    at_ms: int
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """A part of a task. Ids in hexadecimal; the first span of a trace has no ``parent``."""

    id: str
    parent: str
    name: str
    start_ms: int
    end_ms: int
    attributes: Mapping[str, str] = field(default_factory=dict)
    events: tuple[TraceEvent, ...] = ()
    failed: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """A task; parents stand before their children, the task itself first."""

    trace_id: str
    request_id: str
    agent: str
    at_ms: int
    """When it ended, or was looked at."""
    story: str
    answered: bool
    spans: tuple[TraceSpan, ...]


class Wanted(NamedTuple):
    """Which trace is meant: by one of its ids, and of which agent; None is any."""

    request_id: str = ""
    trace_id: str = ""
    agent: str | None = None


class TraceStore(Protocol):
    """Keeps traces, beside the event feed and in the same batches."""

    def keep_trace(self, trace: Trace) -> None:
        """Take one; durable within a moment, or lost with a crash before that. Never blocks."""
        ...

    def find_trace(self, wanted: Wanted) -> Awaitable[Trace | None]:
        """Look for one that is no older than a day; of several, the newest.

        Raises:
            StoreError: the shared state cannot be read.
        """
        ...


class Traces(Protocol):
    """Finds traces, wherever they are kept."""

    async def find(self, wanted: Wanted) -> Trace | None:
        """Look for one; raises ``StoreError`` if that cannot be done."""
        ...
