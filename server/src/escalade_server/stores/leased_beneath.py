"""What a leased store leaves to the store beneath it: all that is not about counters."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

from escalade_server.core.alerting import Mark
from escalade_server.core.commands import SetBench
from escalade_server.core.session import Session
from escalade_server.core.tally import Tally
from escalade_server.engine.news import Entry, Page
from escalade_server.engine.traces import Trace, Wanted
from escalade_server.stores.leasing import LeasableStore


class Beneath:
    """Passes on; see the ports."""

    def __init__(self, beneath: LeasableStore) -> None:
        """Take the store that serves."""
        self.beneath = beneath

    def tally(self, order: Tally, now_ms: int) -> Awaitable[None]:
        """Count a task that no settlement counts; see ``Store``."""
        return self.beneath.tally(order, now_ms)

    def bench(self, order: SetBench, now_ms: int) -> Awaitable[None]:
        """Set something aside; see ``Store``."""
        return self.beneath.bench(order, now_ms)

    def record(self, entries: Sequence[Entry]) -> None:
        """Take entries of the feed; see ``FeedStore``."""
        self.beneath.record(entries)

    def entries(self, after: int, limit: int) -> Awaitable[Page]:
        """Read the feed; see ``FeedStore``."""
        return self.beneath.entries(after, limit)

    def delivered(self, number: int) -> None:
        """Remember up to where people are notified; see ``FeedStore``."""
        self.beneath.delivered(number)

    def follow(
        self,
        told: Callable[[Sequence[Entry]], None],
        marks: Mapping[str, Sequence[Mark]] = MappingProxyType({}),
    ) -> None:
        """Say who is told; see ``FeedStore``."""
        self.beneath.follow(told, marks)

    def keep_report(self, day: str, report: str, now_ms: int) -> Awaitable[bool]:
        """Keep a report; see ``UsageStore``."""
        return self.beneath.keep_report(day, report, now_ms)

    def keep_trace(self, trace: Trace) -> None:
        """Take a trace; see ``TraceStore``."""
        self.beneath.keep_trace(trace)

    def find_trace(self, wanted: Wanted) -> Awaitable[Trace | None]:
        """Look for a trace; see ``TraceStore``."""
        return self.beneath.find_trace(wanted)

    def session(self, key: str, now_ms: int) -> Awaitable[Session | None]:
        """Recall a session; see ``SessionStore``."""
        return self.beneath.session(key, now_ms)

    def keep_session(self, key: str, agent: str, session: Session, now_ms: int) -> Awaitable[None]:
        """Keep a session; see ``SessionStore``."""
        return self.beneath.keep_session(key, agent, session, now_ms)
