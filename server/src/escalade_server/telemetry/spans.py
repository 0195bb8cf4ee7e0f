"""From a task's journey to its spans: a pure fold, at any moment of the task.

Rules of the file:
1. The same journey, however far, gives the same finished spans: what was sent stays true.
2. A child lies within its parent, and tokens and cost stand on attempts only (telemetry D4).
3. No text of a caller or a model: only names, numbers, and words of our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import assert_never

from escalade_server.core import tracing, words
from escalade_server.core.facts import (
    Alert,
    Assessed,
    Escalated,
    EscalationKind,
    Fact,
    Failed,
    Fallback,
    Finished,
    Outcome,
    Retracted,
    Selected,
    Waiting,
)
from escalade_server.core.task import Delivery
from escalade_server.core.trace import AttemptRecord, AttemptStatus
from escalade_server.telemetry import attributes as a
from escalade_server.telemetry import conventions as c
from escalade_server.telemetry.attributes import Attribute, Surroundings
from escalade_server.telemetry.journey import Journey

_TELLING = (Selected, Waiting)
_BROKEN = frozenset({AttemptStatus.FAILED, AttemptStatus.RETRACTED, AttemptStatus.CANCELLED})


class SpanKind(Enum):
    """As OpenTelemetry has them."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something at one instant (Unix ms) of a span."""

    name: str
    at_ms: int
    attributes: tuple[Attribute, ...]


@dataclass(slots=True)
class Span:
    """One span. Ids are 16 hex digits; ``end_ms`` is None while it lasts. Instants in Unix ms."""

    id: str
    parent: str
    """Empty for the root of a trace that begins here."""
    name: str
    kind: SpanKind
    start_ms: int
    end_ms: int | None = None
    attributes: list[Attribute] = field(default_factory=list)
    events: list[SpanEvent] = field(default_factory=list)
    error: str | None = None
    """Says what went wrong; None: nothing, as far as this span goes."""


def spans_of(journey: Journey, around: Surroundings) -> list[Span]:
    """Fold a journey, root first, then in the order of their beginnings; some may still last."""
    return Fold(journey, around).spans()


class Fold:
    """The fold of one journey, which may go on."""

    def __init__(self, journey: Journey, around: Surroundings) -> None:
        """Begin with nothing of it."""
        self._journey, self._around = journey, around
        self._id, self._request = journey.task_id, journey.request
        self._folded = 0
        self._visits = self._waits = 0
        self._visit: Span | None = None
        self._wait: Span | None = None
        self._attempts: dict[int, tuple[Span, Selected]] = {}
        """Those that are not known to be over."""
        self._records: dict[int, AttemptRecord] = {}
        self._now = journey.told[0][1] if journey.told else _began(journey.outcome)
        """Up to when all is told: what begins next begins here."""
        name, context = c.METHODS + ("Route" if self._routed else "Complete"), self._request.trace
        above = "" if context is None else context.span_id
        id_, told = tracing.span_id(self._id, tracing.ROOT), a.root(self._request)
        self._root = Span(id_, above, name, SpanKind.SERVER, self._now, attributes=told)
        self._spans = [self._root]

    def spans(self) -> list[Span]:
        """Fold what has come since the last time; answer all spans, those as before, or over."""
        told, outcome = self._journey.told, self._journey.outcome
        self._records = {record.number: record for record in _records(self._journey)}
        for fact, at_ms in told[self._folded :]:
            self._take(fact, at_ms)
        self._folded = len(told)
        if outcome is not None:
            self._end(outcome)
        return self._spans

    @property
    def _routed(self) -> bool:
        return self._request.delivery is Delivery.ROUTE

    def _take(self, fact: Fact, at_ms: int) -> None:
        match fact:
            case Assessed():
                told = a.assessed(fact, self._request)
                self._add(tracing.ASSESS, c.SPAN_ASSESS, at_ms, told).end_ms = at_ms
            case Selected():
                self._select(fact, at_ms)
            case Escalated():
                self._escalate(fact, at_ms)
            case Fallback():
                event = SpanEvent(c.EVENT_FALLBACK, at_ms, tuple(a.fallback(fact, self._around)))
                (self._visit or self._root).events.append(event)
            case Retracted():
                self._retract(fact, at_ms)
            case Waiting():
                if not fact.repeated:
                    self._await(fact, at_ms)
            case Alert():
                told = [
                    (c.ALERT, fact.kind.value),
                    (c.ALERT_DETAIL, self._around.text(fact.detail)),
                ]
                self._root.events.append(SpanEvent(c.EVENT_ALERT, at_ms, tuple(told)))
            case _:
                assert_never(fact)

    def _add(
        self, number: int, name: str, start_ms: int, told: list[Attribute],
        *, parent: Span | None = None, kind: SpanKind = SpanKind.INTERNAL,
    ) -> Span:  # fmt: skip
        above = (parent or self._root).id
        span = Span(tracing.span_id(self._id, number), above, name, kind, start_ms, None, told)
        self._spans.append(span)
        return span

    # ------------------------------------------------------------------------- layers

    def _enter(self, layer: str, start_ms: int, told: list[Attribute]) -> Span:
        self._visits += 1
        number, name = tracing.LAYER + self._visits, f"{c.SPAN_LAYER} {layer}"
        return self._add(number, name, start_ms, [(c.LAYER, layer), *told])

    def _leave(self) -> None:
        if self._visit is not None:
            self._visit.end_ms = self._now
            self._visit = None

    def _escalate(self, fact: Escalated, at_ms: int) -> None:
        """Every change of layer begins a visit; one that was only looked at has no length."""
        self._close()
        self._wake(at_ms)
        if not self._visits and fact.kind is EscalationKind.FAILURE:
            self._enter(fact.from_layer, self._now, []).end_ms = self._now
        self._leave()
        self._visit = self._enter(fact.to_layer, self._now, a.escalated(fact, self._around))

    def _select(self, fact: Selected, at_ms: int) -> None:
        self._close()
        self._wake(at_ms)
        if self._visit is None:
            self._visit = self._enter(fact.model.layer, self._now, [])
        self._visit.events.append(SpanEvent(c.EVENT_SELECTED, at_ms, tuple(a.selected(fact))))
        span = self._add(
            tracing.ATTEMPT + fact.attempt, f"{c.CHAT} {fact.model.wire_id}", at_ms,
            a.called(fact, self._request, self._around), parent=self._visit,
            kind=SpanKind.INTERNAL if self._routed else SpanKind.CLIENT,
        )  # fmt: skip
        self._attempts[fact.attempt] = span, fact
        self._now = max(self._now, at_ms)

    # ------------------------------------------------------------------------- attempts

    def _close(self) -> None:
        """End what is over: its record may be told later, with the step that it led to."""
        for number in [number for number in self._attempts if number in self._records]:
            self._finish(*self._attempts.pop(number), self._records[number])

    def _finish(self, span: Span, fact: Selected, record: AttemptRecord) -> None:
        end_ms = span.end_ms = max(record.ended_ms, span.start_ms)
        span.attributes += a.over(record, self._around)
        if record.first_delta_ms:
            first_ms = min(max(record.first_delta_ms, span.start_ms), end_ms)
            span.events.insert(0, SpanEvent(c.EVENT_FIRST_CHUNK, first_ms, ()))
        rejected = record.status is AttemptStatus.REJECTED
        if rejected and record.gate is not None:
            why = self._around.text(record.detail)
            span.events.append(_verdict(record.gate.value, end_ms, why))
        elif record.status is AttemptStatus.OK:
            span.events += [_verdict(gate.value, end_ms) for gate in fact.held_by]
        if record.status in _BROKEN:
            span.error = self._around.text(f"{words.name(record.model)}: {record.detail}")
        self._now = max(self._now, end_ms)

    def _retract(self, fact: Retracted, at_ms: int) -> None:
        known = self._attempts.get(fact.attempt)
        if known is not None:
            told = ((c.FAILURE, fact.cls.value), (c.ATTEMPT_DETAIL, self._around.text(fact.detail)))
            known[0].events.append(SpanEvent(c.EVENT_RETRACTED, at_ms, told))

    # ------------------------------------------------------------------------- waits

    def _await(self, fact: Waiting, at_ms: int) -> None:
        """A wait in the queue leaves the layer, a pause on the way does not."""
        self._close()
        self._wake(at_ms)
        if fact.position:
            self._leave()
        self._now = max(self._now, at_ms)
        self._waits += 1
        told, above = a.waiting(fact, self._around), self._visit
        number, now_ms = self._waits, self._now
        marked = [*told, *a.whose(self._request)]
        mark = self._add(tracing.QUEUED + number, c.SPAN_QUEUED, now_ms, marked, parent=above)
        mark.end_ms = now_ms
        self._wait = self._add(tracing.WAIT + number, c.SPAN_WAIT, now_ms, told, parent=above)

    def _wake(self, at_ms: int) -> None:
        if self._wait is not None:
            self._now = self._wait.end_ms = max(at_ms, self._wait.start_ms)
            self._wait = None

    # ------------------------------------------------------------------------- the end

    def _end(self, outcome: Outcome) -> None:
        report, root = outcome.report, self._root
        good = isinstance(outcome, Finished)
        last = next(reversed(self._attempts.values()), None)
        self._close()
        if last is not None:
            last[0].attributes += a.answer(outcome, self._request, self._around)
        end_ms = max(report.ended_ms, self._now)
        for span, _ in self._attempts.values():  # still read, or booked, after the task
            span.attributes.append((c.ATTEMPT_STATUS, AttemptStatus.CANCELLED.value))
            span.end_ms = self._now = end_ms
        self._wake(end_ms)
        self._leave()
        if good and report.attempts and self._visits:
            self._add(tracing.SETTLE, c.SPAN_SETTLE, self._now, []).end_ms = end_ms
        root.attributes += a.ended(outcome, self._around)
        root.end_ms = max(end_ms, self._now)
        if isinstance(outcome, Failed):
            status = self._around.status_of(outcome.reason)
            root.error = (
                self._around.text(outcome.detail) if status in c.RPC_SERVER_ERRORS else None
            )


def _records(journey: Journey) -> Sequence[AttemptRecord]:
    """All attempts that are known to be over; none of a task that was only told again."""
    outcome = journey.outcome
    if outcome is not None and not (isinstance(outcome, Finished) and outcome.replayed):
        return outcome.report.attempts
    told = (fact.before for fact, _ in reversed(journey.told) if isinstance(fact, _TELLING))
    return next(told, ())


def _began(outcome: Outcome | None) -> int:
    return 0 if outcome is None else outcome.report.started_ms


def _verdict(gate: str, at_ms: int, why: str | None = None) -> SpanEvent:
    told: list[Attribute] = [(c.GATE, gate), (c.GATE_PASSED, why is None)]
    if why:
        told.append((c.GATE_DETAIL, why))
    return SpanEvent(c.EVENT_GATE, at_ms, tuple(told))
