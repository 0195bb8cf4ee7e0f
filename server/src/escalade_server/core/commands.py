"""Orders that come out of a cascade, in the imperative. A closed union; the engine obeys."""

from dataclasses import dataclass, field

from escalade_server.core.catalog import Counter, Model, Unit
from escalade_server.core.events import Delta
from escalade_server.core.facts import Fact, Outcome, Waiting
from escalade_server.core.record import record
from escalade_server.core.standing import Bench
from escalade_server.core.tally import Tally
from escalade_server.core.task import Basis, Usage
from escalade_server.core.trace import Figures

_REQUESTS, _TOKENS = Unit.REQUESTS, Unit.TOKENS


@record
class Candidate:
    """One model with the bounds of a call: what a reservation of it would hold (C2, R13).

    ``tokens`` is the estimate for token windows, ``nanos`` the worst-case list value;
    ``output_tokens_max`` is sent upstream.
    """

    model: Model
    tokens: int
    nanos: int
    output_tokens_max: int
    extra: tuple[Counter, ...] = ()
    """Counters of the caller, held in the same step as the model's."""

    @property
    def counters(self) -> tuple[Counter, ...]:
        """Every counter that the call touches."""
        return self.model.counters + self.extra if self.extra else self.model.counters

    def amount(self, counter: Counter) -> int:
        """Units that this call holds in a counter."""
        unit = counter.unit
        if unit is _REQUESTS:
            return 1
        return self.tokens if unit is _TOKENS else self.nanos


@record
class Reserve:
    """Take the first candidate with room in all its counters, atomically (P20).

    ``reservation_id`` is the idempotency key: the same id twice is one reservation (S13).
    Answer: ``Reserved``, ``ReservationDenied``, ``Repeated`` or ``StoreFailed``.
    """

    reservation_id: str
    attempt: int
    candidates: tuple[Candidate, ...]
    agent: str = ""
    routed: bool = False
    """The caller calls the model itself, and may report after its stream is gone (R32)."""
    request_id: str = ""
    """A caller's own id, claimed by this reservation for its agent; empty: nothing is claimed."""
    content: str = ""
    """Hash of what is asked under that id: with another one the id is taken (R27)."""
    task_type: str = ""
    """Under which its use is reported."""


@record
class CallModel:
    """Call the reserved model. Answer: ``ChunkArrived`` ..., then one ending."""

    attempt: int
    candidate: Candidate
    task_id: str = field(default="", compare=False)
    """Of which the trace of the call is worked out (``core.tracing``)."""


@dataclass(frozen=True, slots=True)
class CancelCall:
    """Stop the provider call within 100 ms; with ``drain`` read it to its end detached (R25)."""

    attempt: int
    drain: bool = False


@record
class Deliver:
    """Pass deltas of the current attempt on to the caller."""

    attempt: int
    deltas: tuple[Delta, ...]


@record
class Announce:
    """Tell the caller and the observers a fact."""

    fact: Fact


@record
class Settle:
    """Book an attempt: release what it holds and add what it used (quotas C5).

    ``requests``, ``tokens`` and ``nanos`` (list value) are what the counters get, in the windows
    of admission (T1). With ``hold_until_ms`` the outcome is uncertain: the full reserve stays
    held until then and is booked in full unless settled again before. Answer: ``Settled`` or
    ``SettleFailed``.
    """

    reservation_id: str
    attempt: int
    requests: int
    tokens: int
    nanos: int
    charged_nanos: int
    basis: Basis
    hold_until_ms: int | None = None
    digest: str = ""
    """Of the caller's report that this books; a second report changes nothing (R32)."""
    figures: Figures | None = None
    """This attempt answers the task: its request id runs no more, and is told these (R27)."""
    usage: Usage = Usage()
    """The split of ``tokens``, as far as it is known; the rest of them is assumed."""
    tally: Tally | None = None
    """This attempt answers the task, which is counted with it."""


@dataclass(frozen=True, slots=True)
class SetBench:
    """Set a model, account or provider aside; the later end of old and new wins, 0 clears it."""

    key: str
    bench: Bench


@record
class ReportHealth:
    """Tell a circuit breaker how a call went: the provider's, or that of a model by its key.

    A model has one of its own for the provider's word that it is overloaded (P7).
    """

    provider: str
    ok: bool = True


@dataclass(frozen=True, slots=True)
class Queue:
    """Stand in the queue until ``earliest_ms``, or stay in it; tell this unless it is ``repeated``.

    Answer: ``TurnCame``, or ``TurnedAway``. It holds nothing meanwhile (quotas C11).
    """

    waiting: Waiting


@record
class End:
    """The task has its one ending; the caller's stream closes with it."""

    outcome: Outcome
    tally: Tally | None = None
    """Of a task that no settlement counts."""


Command = (
    Deliver
    | Reserve
    | CallModel
    | CancelCall
    | Announce
    | Settle
    | SetBench
    | ReportHealth
    | Queue
    | End
)
