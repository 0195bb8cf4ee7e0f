"""What the engine needs of the world. Adapters implement these; ``bootstrap`` hands them over."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Counter, Model, Rank
from escalade_server.core.commands import CallModel, Reserve, SetBench, Settle
from escalade_server.core.events import (
    ChunkArrived,
    Delta,
    Repeated,
    ReservationDenied,
    Reserved,
)
from escalade_server.core.facts import Fact, Outcome
from escalade_server.core.failure import Failure
from escalade_server.core.gating import Checker
from escalade_server.core.standing import Standing
from escalade_server.core.tally import Tally
from escalade_server.core.task import Request
from escalade_server.engine.news import Entry, Page


class Clock(Protocol):
    """Wall time that never goes back."""

    def now_ms(self) -> int:
        """Unix ms; advances with the monotonic clock, steered to wall time (style 3.3)."""
        ...


class Entropy(Protocol):
    """The only source of chance."""

    def task_id(self) -> str:
        """A fresh id, 16 bytes as 32 hex digits: also the trace id."""
        ...

    def jitter_ms(self, limit_ms: int) -> int:
        """A random delay, 0 to ``limit_ms``, so that what is due together is not done together."""
        ...


class StoreError(Exception):
    """The store could not do it; nothing was changed, or it is not known whether (S1, S3)."""


@dataclass(frozen=True, slots=True)
class Spend:
    """What one counter holds right now, for status."""

    counter: Counter
    spent: int
    held: int
    ends_ms: int
    leased: int = 0
    """Of what is held: taken by this process in advance, and not in use."""


class Booking(Enum):
    """How far the books of a reservation are."""

    OPEN = "open"
    ASSUMED = "assumed"
    """Booked at the reserve; being told the usage corrects it once (R32)."""
    SETTLED = "settled"


class Kept(NamedTuple):
    """What a store remembers of one reservation; amounts reserved, and booked so far."""

    reservation_id: str
    model_key: str
    agent: str
    routed: bool
    """Its caller calls the model itself, and may report."""
    state: Booking
    digest: str
    """Of the report that was booked; empty before any."""
    admitted_ms: int
    reserved_tokens: int
    reserved_nanos: int
    tokens: int = 0
    nanos: int = 0


class Store(Protocol):
    """Shared state behind one face: counters, reservations, cooldowns.

    Every method but ``standing`` and ``spends`` is one round trip; all raise ``StoreError``.
    """

    async def open(self, counters: Sequence[Counter]) -> None:
        """Open and recover: reservations of dead owners are booked in full (C6)."""
        ...

    def adopt(
        self, counters: Sequence[Counter], marks: Mapping[str, Sequence[Mark]] | None = None
    ) -> Awaitable[None]:
        """Go on with the counters of another strategy: what is spent under a key stays (R18)."""
        ...

    def standing(self, now_ms: int) -> Standing:
        """Shared state as known here, at once; windows that have ended show as empty."""
        ...

    def spends(self, now_ms: int) -> tuple[Spend, ...]:
        """Every counter of the strategy with what it holds now, as known here, for status."""
        ...

    def reserve(
        self, order: Reserve, now_ms: int
    ) -> Awaitable[Reserved | ReservationDenied | Repeated]:
        """Hold the first candidate with room in all its counters, durably and atomically.

        The same ``reservation_id`` again answers as before and holds nothing twice. A request id
        that its agent had answered, or used for another content, in the last 24 hours is
        ``Repeated``, whether there is room or not, and so is one that runs in another process
        (R27). Two tasks of one process with one id at the same time are the caller's to prevent.
        """
        ...

    def settle(self, order: Settle, now_ms: int) -> Awaitable[None]:
        """Book a reservation in its windows of admission; done means durable.

        A second settlement of the same id books only the difference, or nothing; its figures say
        that the request id is answered all the same (R21). A report is booked once: with a second
        one nothing changes (R32). What is booked, and the tally, is added up by day in the same
        step (``engine.usage.UsageStore``).
        """
        ...

    def tally(self, order: Tally, now_ms: int) -> Awaitable[None]:
        """Count a task that no settlement counts, in the day of ``now_ms`` (``UsageStore``)."""
        ...

    def find(self, reservation_id: str) -> Awaitable[Kept | None]:
        """Look a reservation up, as it stands after every earlier order; None: never or no more."""
        ...

    def bench(self, order: SetBench, now_ms: int) -> Awaitable[None]:
        """Set something aside for everyone; the later end wins, and an end of 0 clears it."""
        ...

    async def close(self) -> None:
        """Flush and close; safe twice."""
        ...


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token as it is kept: never its secret, only a hash of its whole text (D2)."""

    key_id: str
    agent: str
    rank: Rank
    digest: bytes = field(repr=False)
    created_ms: int
    expires_ms: int | None = None
    """None: never."""
    revoked_ms: int | None = None

    def is_live(self, now_ms: int) -> bool:
        """Tell whether it still opens anything."""
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


class Tokens(Protocol):
    """The tokens as a server knows them: what a command changes, it sees within a second."""

    def find(self, key_id: str) -> Token | None:
        """Look a token up, live or not. Raises ``StoreError`` when they cannot be known."""
        ...

    def all(self) -> tuple[Token, ...]:
        """List every token there ever was, oldest first; raises ``StoreError``."""
        ...


class TokenStore(Tokens, Protocol):
    """Keeps tokens. Small and rarely changed: every method may block for a moment.

    What one process changes, others see within a second. All methods raise ``StoreError``.
    """

    def add(self, token: Token, now_ms: int) -> None:
        """Keep a new token; refused while its agent has ``LIVE_MAX`` live ones."""
        ...

    def replace(self, old: Token, token: Token, now_ms: int) -> None:
        """Keep an old token's new end, and add its successor, in one step."""
        ...

    def revoke(self, key_id: str, now_ms: int) -> Token:
        """End a token at once and for good; again, it stays as it was."""
        ...

    def close(self) -> None:
        """Close; safe twice."""
        ...


class Duty(Enum):
    """Work of which one server among those that share a ledger is enough."""

    NOTICES = "notices"
    REPORTS = "reports"


class Leadership(Protocol):
    """Says who of several servers does what one is enough for."""

    def holds(self, duty: Duty) -> bool:
        """Tell whether it is this process now; never blocks.

        At most one process holds a duty at a time. After its death another does, within seconds.
        """
        ...


class ProviderFailure(Exception):
    """How a ``Provider`` says that its call broke: carries the classified failure."""

    def __init__(self, failure: Failure) -> None:
        """Keep the failure; its detail is the message."""
        super().__init__(failure.detail)
        self.failure = failure


class Provider(Protocol):
    """Calls one model of one provider and reads its answer."""

    def call(self, order: CallModel, request: Request) -> AsyncGenerator[ChunkArrived, None]:
        """Yield one event per upstream read; return at the regular end of the stream.

        Cancelling the consuming task closes the connection at once.

        Raises:
            ProviderFailure: the call broke, before or after its first chunk.
        """
        ...


class Providers(Protocol):
    """Finds the provider that serves a model."""

    def of(self, model: Model) -> Provider:
        """Answer the provider; every model without an absence has one."""
        ...


class TransportFault(Enum):
    """How a caller's own transport to a provider failed (R33)."""

    CONNECT = "connect"
    DNS = "dns"
    TLS = "tls"
    RESET = "reset"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"


@dataclass(frozen=True, slots=True, repr=False)
class RawEvidence:
    """A failure as a caller saw it. No repr: the body may quote the prompt.

    ``http_status`` is 0 without a response; header names are in lower case.
    """

    http_status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    fault: TransportFault | None = None


class Classifier(Protocol):
    """Says what raw evidence means (R33)."""

    def classify(self, model: Model, evidence: RawEvidence, now_ms: int) -> Failure:
        """Class a failure of a model's call. Total: unknown is UNKNOWN, never guessed."""
        ...


class AnswerChecker(Checker, Protocol):
    """Asks the gates of an answer (R21), and says beforehand what it cannot ask."""

    def refusal(self, request: Request) -> str:
        """Say why the schema of a request cannot be checked against; nothing when it can."""
        ...


class Mistakes(Protocol):
    """Takes a mistake of ours to where an operator sees it, under the id the caller is told."""

    def __call__(self, error: Exception) -> str:
        """Record it; answer the opaque id. Never raises."""
        ...


class Observer(Protocol):
    """Watches. Must neither block nor raise; told after the caller is."""

    def fact(self, task_id: str, request: Request, fact: Fact, now_ms: int) -> None:
        """See one announced fact."""
        ...

    def ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        """See the one ending of a task, with its record."""
        ...


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from, as far as a wait for capacity depends on it (P7, R22)."""

    connection: str = ""
    size_bytes: int = 0
    told: tuple[str, ...] = ()
    """Causes of waits that the user was notified of before its stream broke."""


NOWHERE = Origin()


class Caller(Protocol):
    """The caller's side of a running task. Nothing here blocks; it is buffered and joined."""

    def announce(self, fact: Fact) -> None:
        """Take a fact, in order with the deltas."""
        ...

    def deliver(self, attempt: int, deltas: tuple[Delta, ...]) -> None:
        """Take deltas of one attempt."""
        ...

    def end(self, outcome: Outcome) -> None:
        """Take the one ending; nothing follows it."""
        ...

    async def writable(self) -> None:
        """Return when there is room for more deltas: backpressure to the provider."""
        ...


@dataclass(frozen=True, slots=True)
class Notice:
    """What people are told, in plain words and numbers; never a prompt, an answer or a key.

    ``id`` is the same when a notice is sent again after a crash. ``kind`` is a stable word such as
    ``alert.budget`` or ``report``. ``count`` is how often it happened since ``since_ms``: a storm
    is one notice. ``facts`` are further figures for programs. Instants in Unix ms.
    """

    id: str
    kind: str
    text: str
    at_ms: int
    since_ms: int
    count: int = 1
    facts: Mapping[str, str | int] = field(default_factory=dict)


class Notifier(Protocol):
    """Tells people, through configured sinks only."""

    def notify(self, notice: Notice, done: Callable[[], None]) -> None:
        """Queue one notice; never blocks. ``done`` is called once it is sent, or given up."""
        ...


class PostFailedError(Exception):
    """A message did not arrive; the words hold neither the address nor what was sent."""


class Poster(Protocol):
    """Sends messages over HTTPS; the one HTTP client of the service does."""

    async def post(
        self, url: str, headers: tuple[tuple[str, str], ...], body: bytes, timeout_ms: int
    ) -> int:
        """Send one, and answer the status; redirects are statuses like others.

        Raises:
            PostFailedError: there is no answer in time.
        """
        ...


class FeedStore(Protocol):
    """Keeps the event feed, beside the counters and in the same transactions (``stores.feed``).

    A store owes its books' own entries, too. A settlement that brings a counter to a mark
    (``core.alerting``; what is spent counts, not what is held) adds an ``AlertNews`` once for each
    window and mark, in the transaction of the settlement: several marks passed at once are one
    entry, of the highest. On Redis that is one more comparison in the settling script, a hash field
    for the marks told, and XADD with a number of INCR as its id; ``told`` by pub/sub.
    """

    def record(self, entries: Sequence[Entry]) -> None:
        """Take entries; durable within a moment, with the orders of that time. Never blocks.

        A crash loses at most what was taken in that moment.
        """
        ...

    def entries(self, after: int, limit: int) -> Awaitable[Page]:
        """Read entries with numbers above ``after``, at most ``limit`` of them."""
        ...

    def delivered(self, number: int) -> None:
        """Remember that people are notified of everything up to an entry; as ``record``."""
        ...

    def follow(
        self, told: Callable[[Sequence[Entry]], None], marks: Mapping[str, Sequence[Mark]]
    ) -> None:
        """Say who is told, on the event loop, of every entry once it is kept. Before ``open``.

        ``marks`` are those of the counters, by their keys, lowest first.
        """
        ...
