"""What watching tasks for their spans costs, in CPU µs, and what other ways to export would."""

import asyncio
import io
from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import (
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from escalade_server.core.facts import Finished
from escalade_server.core.tracing import trace_id
from escalade_server.telemetry.journey import Journey, Journeys
from escalade_server.telemetry.logs import make_logger
from escalade_server.telemetry.otel import Sampling
from escalade_server.telemetry.otlp import Packer, Parcel
from escalade_server.telemetry.sink import LineSink
from escalade_server.telemetry.spans import Span, spans_of
from escalade_server.telemetry.tracer import Tracer
from tests.bench.machine import cost_us
from tests.core.builders import request
from tests.engine.shell import LoopClock
from tests.telemetry.journeys import AROUND, Recorder, bumpy, watched

BATCH = 64
"""Tasks whose spans leave in one export."""
_NANOS = 1_000_000
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def journey(*, eventful: bool) -> Journey:
    """Record a task: its first model answers; or fallback, retraction, escalation: eight spans."""
    seen = Recorder()

    async def one() -> None:
        world = bumpy()
        if not eventful:
            world.providers.scripts.clear()
        due_ms = LoopClock().now_ms() + 60_000
        caller = watched(world, seen).start(request(deadline_ms=due_ms))
        await world.engine.drain()
        assert isinstance(caller.outcome, Finished), caller.outcome

    asyncio.run(one())
    [found] = seen.journeys.values()
    return found


class Packed:
    """An outlet that packs what comes in batches, as the sender does, and sends it nowhere."""

    def __init__(self) -> None:
        self._packer = Packer([("service.name", "bench")], "1.0")
        self._parcels: list[Parcel] = []
        self._tasks = 0

    def put(self, parcel: Parcel, *, eventful: bool) -> None:
        self._parcels.append(parcel)
        if len(self._parcels) >= BATCH:
            assert self._packer.pack(self._parcels)
            self._parcels.clear()


def watching(of: Journey, sampling: Sampling) -> Callable[[], object]:
    """All that our tracer does for a task, beyond the record."""
    stream = io.StringIO()
    log = make_logger(LineSink(stream), stream, "json", "error")
    tracer = Journeys((Tracer(Packed(), sampling, AROUND, log, slow_ms=30_000),), {})
    assert of.outcome is not None
    task_id, asked, outcome = of.task_id, of.request, of.outcome

    def one() -> None:
        for fact, at_ms in of.told:
            tracer.fact(task_id, asked, fact, at_ms)
        tracer.ended(task_id, asked, outcome)

    return one


class Batches(SpanProcessor):
    """The stock batch processor's work, in the thread that is measured; sent nowhere."""

    def __init__(self) -> None:
        self._batch: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._batch.append(span)
        if len(self._batch) >= BATCH * 8:
            encode_spans(self._batch).SerializeToString()
            self._batch.clear()


def by_sdk(of: Journey, *, sampled: bool) -> Callable[[], object]:
    """Spans made by OpenTelemetry's SDK, with explicit times."""
    sampler = ALWAYS_ON if sampled else ALWAYS_OFF
    provider = TracerProvider(sampler, Resource({"service.name": "bench"}))
    provider.add_span_processor(Batches())
    tracer, spans = provider.get_tracer("bench"), spans_of(of, AROUND)

    def one() -> None:
        contexts: dict[str, Context] = {}
        for span in spans:
            made = tracer.start_span(
                span.name, contexts.get(span.parent), _kind(span),
                attributes=dict(span.attributes), start_time=span.start_ms * _NANOS,
            )  # fmt: skip
            contexts[span.id] = set_span_in_context(made)
            for event in span.events:
                made.add_event(event.name, dict(event.attributes), event.at_ms * _NANOS)
            if span.error is not None:
                made.set_status(Status(StatusCode.ERROR, span.error))
            made.end((span.end_ms or 0) * _NANOS)

    return one


def by_readable_spans(of: Journey) -> Callable[[], object]:
    """The SDK's read-only spans made of the fold, encoded by the stock exporter in batches."""
    resource, batch = Resource({"service.name": "bench"}), []
    trace = int(trace_id(of.task_id, of.request.trace), 16)

    def context(span_id: str) -> SpanContext | None:
        return SpanContext(trace, int(span_id, 16), False, _SAMPLED) if span_id else None  # noqa: FBT003

    def one() -> None:
        for span in spans_of(of, AROUND):
            events = [Event(e.name, dict(e.attributes), e.at_ms * _NANOS) for e in span.events]
            batch.append(
                ReadableSpan(
                    span.name, context(span.id), context(span.parent), resource,
                    dict(span.attributes), events, kind=_kind(span),
                    status=Status(StatusCode.ERROR if span.error else StatusCode.UNSET),
                    start_time=span.start_ms * _NANOS, end_time=(span.end_ms or 0) * _NANOS,
                )
            )  # fmt: skip
        if len(batch) >= BATCH * 8:
            encode_spans(batch).SerializeToString()
            batch.clear()

    return one


def _kind(span: Span) -> SpanKind:
    return SpanKind[span.kind.name]


def measure(*, quick: bool) -> dict[str, float]:
    """CPU µs a task of each way."""
    number = BATCH * (2 if quick else 10)
    plain, eventful = journey(eventful=False), journey(eventful=True)
    ways = {
        "traces, straight task, not exported": watching(plain, Sampling(0)),
        "traces, straight task, exported": watching(plain, Sampling()),
        "traces, escalated task, exported": watching(eventful, Sampling()),
        "  by ReadableSpan, stock encoder": by_readable_spans(eventful),
        "  by the SDK": by_sdk(eventful, sampled=True),
        "  by the SDK, sampled out": by_sdk(eventful, sampled=False),
    }
    return {name: cost_us(one, number) for name, one in ways.items()}
