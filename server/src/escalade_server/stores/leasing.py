"""What a leased store asks of the store beneath it: one order, and its answer (quotas C10)."""

from collections.abc import Awaitable
from typing import NamedTuple, Protocol

from escalade_server.core.catalog import Counter
from escalade_server.core.leases import Wish
from escalade_server.core.ledger import NOTHING, Amounts
from escalade_server.engine.ports import FeedStore, Store
from escalade_server.engine.sessions import SessionStore
from escalade_server.engine.traces import TraceStore
from escalade_server.engine.usage import UsageStore
from escalade_server.stores.usage import Sums

NO_WISH = Wish(NOTHING, NOTHING)


class Fold(NamedTuple):
    """Bring a lease up to date: take it, renew it, give it back are all this.

    ``used`` is booked and ``keep`` stays held, in the windows in which it was taken, whether there
    is room or not; then the wish is looked at. A number that the store has done already changes
    nothing, and is answered as before; the first one makes the lease. Orders of one lease come one
    after the other.
    """

    lease: str
    seq: int
    counters: tuple[Counter, ...]
    used: Amounts
    keep: Amounts
    sums: Sums
    """What is added to the days with it."""
    wish: Wish = NO_WISH
    granted: Amounts | None = None
    """This was granted for it: it is said again to a store that may not have heard of it (S10)."""
    is_lost: bool = False
    """What was held and is not told of is not known to be free: it stays booked."""


class Ending(NamedTuple):
    """When the window of one counter ends that a lease belongs to."""

    counter: str
    column: int
    """Which of the amounts it counts."""
    in_ms: int


class Folded(NamedTuple):
    """The answer to a fold; None granted: too little is left for a lease."""

    granted: Amounts | None
    admits_ms: int
    """So long the windows of the lease are those of new calls."""
    replicas: int
    endings: tuple[Ending, ...] = ()


class LeasableStore(Store, FeedStore, UsageStore, TraceStore, SessionStore, Protocol):
    """A store that can hold chunks for somebody who spends them."""

    def fold(self, order: Fold, now_ms: int) -> Awaitable[Folded]:
        """Do a fold, durably and atomically; raises ``StoreError``."""
        ...
