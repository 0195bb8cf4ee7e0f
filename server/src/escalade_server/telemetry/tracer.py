"""Which tasks are exported: by what happened to them, not by chance alone (DESIGN 8).

From the moment a task is eventful its finished spans go out at once, the rest as they end.
"""

from collections.abc import Sequence
from typing import Protocol

from escalade_server.core.facts import Fact, Selected, Waiting
from escalade_server.core.tracing import trace_id
from escalade_server.telemetry import names
from escalade_server.telemetry.attributes import Surroundings
from escalade_server.telemetry.journey import Journey
from escalade_server.telemetry.logs import Log
from escalade_server.telemetry.otel import Sampling
from escalade_server.telemetry.otlp import Parcel
from escalade_server.telemetry.spans import Fold, Span


class Outlet(Protocol):
    """Takes finished spans on their way out."""

    def put(self, parcel: Parcel, *, eventful: bool) -> None:
        """Take them; never blocks, never raises."""
        ...


class Tracer:
    """Implements ``journey.Reader``. A task that is not exported costs a look, and no more."""

    def __init__(
        self, outlet: Outlet, sampling: Sampling, around: Surroundings, log: Log, *, slow_ms: int
    ) -> None:
        """``slow_ms`` is how long a task may take before it is eventful for that."""
        self._outlet, self._sampling, self._around, self._log = outlet, sampling, around, log
        self._slow_ms = slow_ms
        self._eventful: dict[str, _Sent] = {}
        """Of those that run: how far their spans are out."""

    def went(self, journey: Journey, fact: Fact) -> None:
        """See how far an eventful task has come."""
        sent = self._eventful.get(journey.task_id)
        if sent is None:
            sent = self._eventful[journey.task_id] = _Sent()
        if isinstance(fact, Selected | Waiting):  # with them come the attempts that are over
            self._send(journey, sent)

    def arrived(self, journey: Journey) -> None:
        """See a whole journey."""
        sent = self._eventful.pop(journey.task_id, None) if journey.is_eventful else None
        if sent is None and (journey.was_eventful or journey.took_ms >= self._slow_ms):
            sent = _Sent()
        try:
            if sent is not None or self._is_chosen(journey):
                self._send(journey, sent)
        except ValueError:  # an id that is none
            self._log.error(names.OBSERVER_FAILED, error=ValueError.__name__)

    def _is_chosen(self, journey: Journey) -> bool:
        context = journey.request.trace
        sampled = None if context is None else context.sampled
        return self._sampling.keeps(trace_id(journey.task_id, context), sampled)

    def _send(self, journey: Journey, sent: "_Sent | None") -> None:
        """Hand over what is finished and not out yet; of an uneventful task, all at its end."""
        context, way = journey.request.trace, sent or _Sent()
        try:
            if way.fold is None:
                way.fold = Fold(journey, self._around)
            spans = way.fresh(way.fold.spans())
        except Exception as error:  # noqa: BLE001 - a watcher never stops what it watches
            self._log.error(names.OBSERVER_FAILED, error=type(error).__name__)
            return
        if spans:
            parcel = Parcel(trace_id(journey.task_id, context), context, spans)
            self._outlet.put(parcel, eventful=sent is not None)


class _Sent:
    """How far the spans of one task are out."""

    __slots__ = ("_ids", "fold")

    def __init__(self) -> None:
        self.fold: Fold | None = None
        self._ids: set[str] = set()

    def fresh(self, spans: Sequence[Span]) -> Sequence[Span]:
        """Leave out what lasts, and what was sent before; note the rest as sent."""
        found = [span for span in spans if span.end_ms is not None and span.id not in self._ids]
        self._ids.update([span.id for span in found])
        return found
