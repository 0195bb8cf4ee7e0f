"""Keeps how tasks went, for who asks afterwards: the same spans as a tracer gets.

A task to which nothing happened costs what is noted of it while it runs: its spans are made only
if somebody asks. Nothing of its messages outlives it.
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from escalade_server.core.facts import ErrorReason, Fact, Finished, Outcome
from escalade_server.core.task import Delivery, Request, ResponseFormat, Sampling, Task
from escalade_server.core.trace import Answer, Report
from escalade_server.core.tracing import TraceContext, trace_id
from escalade_server.engine.ports import Clock
from escalade_server.engine.traces import Trace, TraceEvent, TraceSpan, TraceStore, Wanted
from escalade_server.telemetry import conventions as c
from escalade_server.telemetry import names
from escalade_server.telemetry.attributes import Attribute, Surroundings
from escalade_server.telemetry.journey import Journey, Told
from escalade_server.telemetry.logs import Log
from escalade_server.telemetry.spans import Span, spans_of

RING = 200
"""Tasks that are kept here: the uneventful, and the others until they are surely written."""
SLOW_MS = 30_000
"""A task that takes longer is kept for that."""
_CONTENT = frozenset({c.INPUT_MESSAGES, c.OUTPUT_MESSAGES})
"""Never kept, also where it goes to a tracer."""
_REPEATS = frozenset({ErrorReason.REQUEST_IN_PROGRESS, ErrorReason.ALREADY_ANSWERED})
_NO_ANSWER = Answer()


class _Gone(NamedTuple):
    """A task that is over: what its spans are made of, without what it was asked and answered."""

    task_id: str
    told: list[Told]
    report: Report
    id: str
    agent: str
    trace: TraceContext | None
    task: Task
    response_format: ResponseFormat
    sampling: Sampling
    delivery: Delivery

    @property
    def journey(self) -> Journey:
        """Make what it was again, as far as spans need it."""
        request = Request(
            self.id, self.task, (), response_format=self.response_format, sampling=self.sampling,
            delivery=self.delivery, agent=self.agent, trace=self.trace,
        )  # fmt: skip
        outcome = Finished(self.report, _NO_ANSWER)
        return Journey(self.task_id, request, self.told, outcome)


_Kept: TypeAlias = tuple[
    str, list[Told], Report, str, str, TraceContext | None, Task, ResponseFormat, Sampling,
    Delivery,
]  # fmt: skip
"""The same without names, which cost more than all else that is kept of a straight task."""


def _kept(journey: Journey, outcome: Finished) -> _Kept:
    asked = journey.request
    return (
        journey.task_id, journey.told, outcome.report, asked.id, asked.agent, asked.trace,
        asked.task, asked.response_format, asked.sampling, asked.delivery,
    )  # fmt: skip


def _is_repeat(outcome: Outcome | None) -> bool:
    """Tell a call that only met what an earlier one with its request id does or did (R27)."""
    if isinstance(outcome, Finished):
        return outcome.replayed
    return outcome is not None and outcome.reason in _REPEATS


class TraceKeeper:
    """Implements ``journey.Reader``, and ``Traces`` of the API. Owned by one event loop."""

    def __init__(
        self,
        store: TraceStore,
        around: Surroundings,
        clock: Clock,
        log: Log,
        running: dict[str, Journey],
    ) -> None:
        """Say where traces are kept, what spans tell beside the record, and what runs by id."""
        self._store, self._around, self._clock, self._log = store, around, clock, log
        self._running = running
        self._ring: deque[_Kept | Trace] = deque(maxlen=RING)

    def went(self, journey: Journey, fact: Fact) -> None:
        """See how far a task has come; what is kept is whole."""

    def arrived(self, journey: Journey) -> None:
        """See a whole journey. A repeat is not kept: it would hide the task that it repeats."""
        outcome = journey.outcome
        if _is_repeat(outcome):
            return
        if not journey.was_eventful and journey.took_ms < SLOW_MS and isinstance(outcome, Finished):
            self._ring.append(_kept(journey, outcome))
            return
        try:
            trace = self._trace(journey)
            self._ring.append(trace)
            self._store.keep_trace(trace)
        except Exception as error:  # noqa: BLE001 - a watcher never stops what it watches
            self._log.error(names.OBSERVER_FAILED, error=type(error).__name__)

    async def find(self, wanted: Wanted) -> Trace | None:
        """Look for a trace: of what runs here, of what is kept, and of the last few here.

        Raises:
            StoreError: the shared state cannot be read.
        """
        running = next((j for j in reversed(self._running.values()) if _is(j, wanted)), None)
        if running is not None:
            return self._trace(running)
        kept = await self._store.find_trace(wanted)
        ended = (e if isinstance(e, Trace) else _Gone(*e) for e in reversed(self._ring))
        here = next((each for each in ended if _is(each, wanted)), None)
        found = self._trace(here.journey) if isinstance(here, _Gone) else here
        if found is None or (kept is not None and kept.at_ms > found.at_ms):
            return kept
        return found

    def _trace(self, journey: Journey) -> Trace:
        outcome, request, now_ms = journey.outcome, journey.request, self._clock.now_ms()
        at_ms = now_ms if outcome is None else outcome.report.ended_ms
        return Trace(
            trace_id(journey.task_id, request.trace),
            request.id,
            request.agent,
            at_ms,
            "" if outcome is None else outcome.report.story,
            isinstance(outcome, Finished),
            tuple(_spans(spans_of(journey, self._around), at_ms)),
        )


def _is(task: Journey | _Gone | Trace, wanted: Wanted) -> bool:
    """Tell whether a task is the one that is meant."""
    if isinstance(task, Trace):
        whose, request_id, name = task.agent, task.request_id, task.trace_id
    else:
        request = task.request if isinstance(task, Journey) else task
        whose, request_id = request.agent, request.id
        name = trace_id(task.task_id, request.trace)
    if wanted.agent not in {None, whose}:
        return False
    return wanted.request_id == request_id if wanted.request_id else wanted.trace_id == name


def _spans(spans: Iterable[Span], at_ms: int) -> Iterable[TraceSpan]:
    """Write spans as they are kept: all values as text, without marks that only tracers need."""
    for place, span in enumerate(spans):
        if span.name == c.SPAN_QUEUED:
            continue
        yield TraceSpan(
            span.id,
            span.parent if place else "",
            span.name,
            span.start_ms,
            max(at_ms, span.start_ms) if span.end_ms is None else span.end_ms,
            _texts(span.attributes),
            tuple(TraceEvent(e.name, e.at_ms, _texts(e.attributes)) for e in span.events),
            span.error is not None,
            span.error or "",
        )


def _texts(told: Iterable[Attribute]) -> dict[str, str]:
    return {
        name: "; ".join(value) if isinstance(value, tuple) else f"{value}"
        for name, value in told
        if name not in _CONTENT
    }
