"""What an attempt is booked with when it ends, however it ends (quotas C5, R13, R15)."""

from escalade_server.core.attempt import Ending, Live, Over
from escalade_server.core.catalog import Billing, Model, Unit
from escalade_server.core.commands import Candidate, Settle
from escalade_server.core.complexity import BYTES_PER_TOKEN
from escalade_server.core.failure import ANSWERS, TABLE, Charge, Failure
from escalade_server.core.gates import Gate
from escalade_server.core.money import cost_nanos
from escalade_server.core.need import Need
from escalade_server.core.oddities import list_nanos
from escalade_server.core.record import record
from escalade_server.core.tally import Tally
from escalade_server.core.task import Basis, Usage
from escalade_server.core.trace import AttemptRecord, AttemptStatus, Figures, Oddities

UNCERTAIN_MS = 900_000
"""How long an outcome that may have been billed stays held before it is booked (C5)."""
ABSURD = 10
"""Usage above this multiple of its bound is not believed (U26)."""
IN_FLIGHT_TOKENS = 256
"""Output a provider may have made and billed that had not reached us when a stream broke."""
# Faster than their enums.
_METERED, _WHOLE, _OK = Billing.METERED, Ending.WHOLE, AttemptStatus.OK
_REPORTED, _RESERVED = Basis.REPORTED, Basis.RESERVED


@record
class Booking:
    """The figures of a settlement; ``hold`` keeps the reserve until the doubt is over."""

    requests: int
    usage: Usage
    nanos: int
    basis: Basis
    hold: bool = False

    def order(
        self,
        live: Live,
        now_ms: int,
        figures: Figures | None = None,
        tally: Tally | None = None,
    ) -> Settle:
        """Make the command that books it; with ``tally`` it answers the task."""
        reserved = self.basis is _RESERVED
        return Settle(
            live.reservation_id,
            live.number,
            self.requests,
            live.candidate.tokens if reserved else self.usage.total_tokens,
            self.nanos,
            self.charged_nanos(live.model),
            self.basis,
            now_ms + UNCERTAIN_MS if self.hold else None,
            live.digest,
            figures,
            self.usage,
            tally,
        )

    def charged_nanos(self, model: Model) -> int:
        """Metered models charge their list value; free and subscription ones nothing (R15)."""
        return self.nanos if model.billing is _METERED else 0

    def record(
        self, live: Live, status: AttemptStatus, now_ms: int, failure: Failure | None = None
    ) -> AttemptRecord:
        """Write the attempt down with the figures it is booked with."""
        model = live.candidate.model
        return AttemptRecord(  # by place: names cost as much as all the rest of it
            live.number,
            model,
            live.reservation_id,
            status,
            live.reported_model,
            live.finish.reason if live.finish else None,
            failure.cls if failure else None,
            failure.detail if failure else "",
            failure.http_status if failure else 0,
            live.started_ms,
            live.first_ms,
            live.ended_ms or now_ms,
            self.usage,
            self.nanos,
            self.charged_nanos(model),
            self.basis,
            live.oddities,
            _gate(failure) if status is AttemptStatus.REJECTED else None,
        )


def _gate(failure: Failure | None) -> Gate | None:
    """Name the gate of a rejection, unless it is its caller's own."""
    return Gate(failure.code) if failure is not None and failure.code else None


NOT_SENT = Booking(0, Usage(), 0, Basis.NONE)


def release(reservation_id: str, attempt: int) -> Settle:
    """Make the command that lets go of a reservation for which nothing was sent."""
    return Settle(reservation_id, attempt, 0, 0, 0, 0, Basis.NONE)


def of(over: Over, need: Need, *, routed: bool) -> tuple[Booking, AttemptStatus]:
    """Say what an ended attempt is booked with, and what became of it (C5)."""
    live, end, failure = over.live, over.ending, over.failure
    if routed and live.usage is not None and _absurd(live.usage, live, need):
        live.usage = None
    blind = routed and live.usage is None
    if end is _WHOLE and failure is None:
        return unread(live) if blind else answered(live, need), _OK
    match end:
        case Ending.WHOLE:  # a filter's answer: charged if it says so
            return broken(live, need, Charge.USAGE, sent=True), AttemptStatus.OK
        case Ending.REJECTED:
            if failure is not None and failure.cls in ANSWERS:  # a filter's answer, as above
                return broken(live, need, Charge.USAGE, sent=True), AttemptStatus.REJECTED
            return unread(live) if blind else answered(live, need), AttemptStatus.REJECTED
        case Ending.BROKEN:
            charge = TABLE[failure.cls].charge if failure else Charge.UNCERTAIN
            sent = failure is None or failure.sent
            status = AttemptStatus.RETRACTED if live.delivered else AttemptStatus.FAILED
            if routed and not sent:
                status = AttemptStatus.NOT_SENT
            return broken(live, need, charge, sent=sent), status
        case Ending.DROPPED:
            booking = broken(live, need, Charge.UNCERTAIN, sent=True)
            return booking, AttemptStatus.CANCELLED
        case Ending.DRAINED:
            known = live.finish is not None or live.usage is not None
            return answered(live, need) if known else unread(live), AttemptStatus.CANCELLED
        case Ending.UNREPORTED:
            return unread(live), AttemptStatus.UNREPORTED


def late(over: Over) -> tuple[Booking, AttemptStatus]:
    """Say the same of an attempt that is reported after its task has ended (R32).

    Of the bounds of its call only the reserve is left: it stands in for what is not believed.
    """
    live, end, failure = over.live, over.ending, over.failure
    usage, booking = live.usage, unread(live)
    if usage is not None and not _garbled(usage):
        nanos = cost_nanos(usage, live.model.price)
        if nanos <= ABSURD * live.candidate.nanos:
            booking = Booking(1, usage, nanos, Basis.REPORTED)
    if failure is None or end is Ending.REJECTED:
        return booking, AttemptStatus.OK if failure is None else AttemptStatus.REJECTED
    if not failure.sent:
        return NOT_SENT, AttemptStatus.NOT_SENT
    uncertain = TABLE[failure.cls].charge is Charge.UNCERTAIN and live.model.is_paid
    if booking.basis is Basis.RESERVED and not uncertain:
        booking = Booking(1, Usage(), 0, Basis.NONE)
    return booking, AttemptStatus.OK if end is Ending.WHOLE else AttemptStatus.FAILED


def answered(live: Live, need: Need) -> Booking:
    """Book an attempt that came to its own end: as reported, else by a count of our own."""
    usage = live.usage
    if usage is not None and _absurd(usage, live, need):
        live.oddities = (live.oddities or Oddities())._replace(unbelievable=True)
        usage = None
    if usage is None:
        return _counted(live, need)
    nanos, told = list_nanos(live, usage), live.cost_nanos
    if told is not None and 0 <= told <= ABSURD * max(nanos, live.candidate.nanos):
        nanos = told
    return Booking(1, usage, nanos, _REPORTED)


def broken(live: Live, need: Need, charge: Charge, *, sent: bool) -> Booking:
    """Book an attempt that failed, broke or was cancelled."""
    if not sent:
        return NOT_SENT
    if live.usage is not None:
        return answered(live, need)
    if live.first_ms:
        return unread(live) if live.model.bills_after_cancel else _counted(live, need)
    if charge is Charge.UNCERTAIN and live.candidate.nanos and live.model.is_paid:
        return Booking(1, Usage(), live.candidate.nanos, Basis.RESERVED, hold=True)
    return Booking(1, Usage(), 0, Basis.NONE)


def unread(live: Live) -> Booking:
    """Book in full what is billed to its end, and not read to it (R25)."""
    return Booking(1, Usage(), live.candidate.nanos, Basis.RESERVED)


def _garbled(usage: Usage) -> bool:
    """Tell whether figures contradict themselves."""
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    negative = usage.input_tokens < 0 or usage.output_tokens < 0 or cached < 0 or written < 0
    return negative or cached + written > usage.input_tokens


def _absurd(usage: Usage, live: Live, need: Need) -> bool:
    return (
        _garbled(usage)
        or usage.input_tokens > ABSURD * need.input_bound
        or usage.output_tokens > ABSURD * max(live.candidate.output_tokens_max, 1)
    )


def _counted(live: Live, need: Need) -> Booking:
    """Count an attempt ourselves: fairly, or by bounds where a money cap is at stake (R13)."""
    received = live.fold.output_bytes
    capped = any(counter.unit is Unit.NANOS for counter in live.candidate.counters)
    if capped or need.spend_limit_nanos is not None:
        output = min(received + IN_FLIGHT_TOKENS, live.candidate.output_tokens_max)
        usage = Usage(need.input_bound, output)
    else:
        usage = Usage(need.input_estimate * 11 // 10, received * 11 // (10 * BYTES_PER_TOKEN))
    nanos = min(cost_nanos(usage, live.model.price), live.candidate.nanos)
    return Booking(1, usage, nanos, Basis.ESTIMATED)


def gives_back(order: Settle, candidate: Candidate) -> bool:
    """Tell whether a settlement leaves room that its reservation held."""
    if order.hold_until_ms is not None:
        return False
    less = order.nanos < candidate.nanos or order.tokens < candidate.tokens
    return less or not order.requests
