"""Facts that go into a cascade: what has happened, in past tense. A closed union."""

from dataclasses import dataclass
from typing import NamedTuple

from escalade_server.core.facts import ErrorReason
from escalade_server.core.failure import Failure
from escalade_server.core.gates import Gate
from escalade_server.core.record import record
from escalade_server.core.standing import Denial, Standing
from escalade_server.core.task import FinishReason, ProviderState, Usage
from escalade_server.core.trace import Figures, Oddities


class TextDelta(NamedTuple):
    """A piece of the answer's text."""

    text: str


class ReasoningDelta(NamedTuple):
    """A piece of visible reasoning; counts as a first token (R24)."""

    text: str


class ToolCallDelta(NamedTuple):
    """A piece of the tool call number ``slot``; ``id`` and ``name`` come once (U27)."""

    slot: int
    id: str
    name: str
    arguments: str


class StateDelta(NamedTuple):
    """Opaque vendor state that the caller gives back with its next step."""

    state: ProviderState


Delta = TextDelta | ReasoningDelta | ToolCallDelta | StateDelta


class Finish(NamedTuple):
    """The provider's own finish reason; ``detail`` is its category, if it names one (R26)."""

    reason: FinishReason
    detail: str = ""


@record
class Started:
    """The task begins; ``standing`` is shared state at this instant."""

    standing: Standing


@record
class Reserved:
    """The store took the candidate at ``position`` and passed the ``denials`` before it."""

    attempt: int
    position: int
    denials: tuple[Denial, ...] = ()


@dataclass(frozen=True, slots=True)
class ReservationDenied:
    """None of the candidates had room; ``standing`` is fresh."""

    attempt: int
    denials: tuple[Denial, ...]
    standing: Standing


class Repeated(NamedTuple):
    """The request id was used before, and nothing is reserved (R27).

    With ``figures`` it was answered, by ``model_key``; or it ``runs`` in another process; else it
    is that of another request.
    """

    attempt: int
    model_key: str = ""
    figures: Figures | None = None
    runs: bool = False


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The ledger did not confirm the reservation: nothing was called, something may be held."""

    attempt: int
    detail: str


@record
class ChunkArrived:
    """One upstream read, decoded: any of deltas, finish, usage, the answering model's name.

    One event per read, not per frame: it is the hottest (pitfalls, Core).
    ``cost_nanos`` is the provider's own figure where it reports one.
    """

    attempt: int
    deltas: tuple[Delta, ...] = ()
    finish: Finish | None = None
    usage: Usage | None = None
    model: str = ""
    cost_nanos: int | None = None
    oddities: Oddities | None = None
    """So far; told with a finish, usage or name, if there are any."""


@record
class StreamEnded:
    """The provider's stream came to its regular end; without a finish reason it is broken."""

    attempt: int


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The attempt broke, before or after its first delta."""

    attempt: int
    failure: Failure


@record
class Settled:
    """The settlement of an attempt is durable."""

    attempt: int
    standing: Standing


@dataclass(frozen=True, slots=True)
class SettleFailed:
    """The settlement is not durable yet; the store keeps trying on its own (S2)."""

    attempt: int
    detail: str


class OutcomeReported(NamedTuple):
    """The caller's own word on an attempt that it called itself (R32, R33).

    ``failure`` says that it failed (or was not sent), ``rejected`` that its answer failed this
    gate of the caller's; with neither, the model answered. No usage: the reserve is booked.
    ``first_token_ms`` and ``elapsed_ms`` count from the call; ``digest`` tells two outcomes apart.
    """

    attempt: int
    usage: Usage | None = None
    finish: Finish | None = None
    failure: Failure | None = None
    rejected: str = ""
    model: str = ""
    first_token_ms: int | None = None
    elapsed_ms: int | None = None
    digest: str = ""
    gate: Gate | None = None
    """Which it was of ours; None: one of the caller's own."""


@dataclass(frozen=True, slots=True)
class LeaseExtended:
    """The caller still works on an attempt that it called itself."""

    attempt: int


@dataclass(frozen=True, slots=True)
class ReportsEnded:
    """The caller will not report any more, but still listens (R31)."""


@dataclass(frozen=True, slots=True)
class CallerLeft:
    """Cancelled, disconnected, or stopped by drain: nobody reads any more (P1, P3)."""


@record
class TimePassed:
    """``Cascade.wake_at_ms`` has come; ``standing`` is fresh."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class TurnCame:
    """A task that waits may look again; ``standing`` is fresh."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A task may not wait here, or not any more: too many do, or the server shuts down."""

    reason: ErrorReason
    detail: str


Event = (
    ChunkArrived
    | StreamEnded
    | Started
    | Reserved
    | ReservationDenied
    | Repeated
    | StoreFailed
    | AttemptFailed
    | Settled
    | SettleFailed
    | OutcomeReported
    | LeaseExtended
    | ReportsEnded
    | CallerLeft
    | TimePassed
    | TurnCame
    | TurnedAway
)
