"""Orders that come out of a cascade, in the imperative. A closed union; the engine obeys."""

from dataclasses import dataclass
from typing import NamedTuple

from escalade_server.core.catalog import Counter, Model, Unit
from escalade_server.core.events import Delta
from escalade_server.core.facts import Fact, Outcome
from escalade_server.core.standing import Bench
from escalade_server.core.task import Basis

_REQUESTS, _TOKENS = Unit.REQUESTS, Unit.TOKENS


class Candidate(NamedTuple):
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


class Reserve(NamedTuple):
    """Take the first candidate with room in all its counters, atomically (P20).

    ``reservation_id`` is the idempotency key: the same id twice is one reservation (S13).
    Answer: ``Reserved``, ``ReservationDenied`` or ``StoreFailed``.
    """

    reservation_id: str
    attempt: int
    candidates: tuple[Candidate, ...]
    agent: str = ""
    routed: bool = False
    """The caller calls the model itself, and may report after its stream is gone (R32)."""


class CallModel(NamedTuple):
    """Call the reserved model. Answer: ``ChunkArrived`` ..., then one ending."""

    attempt: int
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class CancelCall:
    """Stop the provider call within 100 ms; with ``drain`` read it to its end detached (R25)."""

    attempt: int
    drain: bool = False


class Deliver(NamedTuple):
    """Pass deltas of the current attempt on to the caller."""

    attempt: int
    deltas: tuple[Delta, ...]


class Announce(NamedTuple):
    """Tell the caller and the observers a fact."""

    fact: Fact


class Settle(NamedTuple):
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


@dataclass(frozen=True, slots=True)
class SetBench:
    """Set a model, account or provider aside; the later end of old and new wins."""

    key: str
    bench: Bench


class ReportHealth(NamedTuple):
    """Tell the provider's circuit breaker how a call went."""

    provider: str
    ok: bool


class End(NamedTuple):
    """The task has its one ending; the caller's stream closes with it."""

    outcome: Outcome


Command = (
    Deliver | Reserve | CallModel | CancelCall | Announce | Settle | SetBench | ReportHealth | End
)
