"""The way out: bounded, in order of need, and never in the way."""

import asyncio
import io
import json

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from escalade_server.core.tracing import TraceContext
from escalade_server.telemetry import names
from escalade_server.telemetry.export import ExportError, SpanExporter
from escalade_server.telemetry.logs import make_logger
from escalade_server.telemetry.otlp import Packer, Parcel
from escalade_server.telemetry.sink import LineSink
from escalade_server.telemetry.spans import Span, SpanEvent, SpanKind

pytestmark = pytest.mark.looptime
TRACE = "0af7651916cd43dd8448eb211c80319c"
PACKER = Packer([("service.name", "test")], "1.0")


class Collector:
    """Keeps the names of the spans of each export, or fails as it is told to."""

    def __init__(self) -> None:
        self.exports: list[list[str]] = []
        self.fails: list[Exception] = []
        self.refused = 0
        self.hanging = False

    async def send(self, data: bytes) -> int:
        if self.hanging:
            await asyncio.Event().wait()
        if self.fails:
            raise self.fails.pop(0)
        await asyncio.sleep(0.01)
        export = ExportTraceServiceRequest.FromString(data)
        self.exports.append([span.name for span in export.resource_spans[0].scope_spans[0].spans])
        return self.refused


class World:
    def __init__(self, *, queue_max: int = 10, batch_max: int = 4) -> None:
        self.collector, self.stream = Collector(), io.StringIO()
        self.sink = LineSink(self.stream)
        self.exporter = SpanExporter(
            self.collector.send, PACKER, make_logger(self.sink, self.stream, "json", "info"),
            queue_max=queue_max, batch_max=batch_max, delay_ms=1_000,
        )  # fmt: skip

    def put(self, *names: str, eventful: bool = False) -> None:
        spans = [Span("00f067aa0ba902b7", "", each, SpanKind.INTERNAL, 1, 2) for each in names]
        self.exporter.put(Parcel(TRACE, None, spans), eventful=eventful)

    def logged(self) -> list[str]:
        self.sink.close()
        return [json.loads(line)["event"] for line in self.stream.getvalue().splitlines()]


async def work(world: World, seconds: float) -> None:
    """Let the sender run for a while."""
    running = asyncio.ensure_future(world.exporter.run())
    await asyncio.sleep(seconds)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_is_eventful_goes_at_once_and_first() -> None:
    world = World()
    world.put("a", "b")
    await work(world, 0.9)
    assert world.collector.exports == []
    world.put("news", eventful=True)
    await work(world, 0.2)

    assert world.collector.exports == [["news", "a", "b"]]
    assert (world.exporter.queued, world.exporter.sent) == (0, 3)


async def test_the_rest_goes_after_its_delay_in_batches() -> None:
    world = World()
    for name in ("ab", "cd", "ef"):
        world.put(*name)
    world.put(*"ghij")
    await work(world, 3)

    assert world.collector.exports == [["a", "b", "c", "d"], ["e", "f"], ["g", "h", "i", "j"]]


async def test_a_full_queue_drops_what_is_uneventful_first_and_counts_it() -> None:
    world = World(queue_max=4)
    world.put("a", "b")
    world.put("c", "d")
    world.put("e")
    world.put("news", "more", eventful=True)
    assert world.exporter.queued == 4
    assert world.exporter.dropped == 3
    await work(world, 2)

    assert world.collector.exports == [["news", "more", "c", "d"]]
    assert world.logged() == [names.TRACES_DROPPED]


async def test_a_collector_that_is_down_is_tried_again_and_told_once() -> None:
    world = World(queue_max=4)
    world.collector.fails = [ExportError("status UNAVAILABLE", again=True) for _ in range(5)]
    world.put("a", eventful=True)
    await work(world, 0.5)
    assert world.exporter.queued == 1
    world.put("b", "c", "d", "e")
    world.put("f")
    await work(world, 100)

    assert world.collector.exports == [["a"], ["f"]]
    assert world.exporter.dropped == 4
    assert world.logged() == [names.TRACES_FAILING, names.TRACES_MENDED, names.TRACES_DROPPED]


@pytest.mark.parametrize("error", [ExportError("no", again=False), RuntimeError("a bug of ours")])
async def test_what_will_never_be_taken_is_dropped(error: Exception) -> None:
    world = World()
    world.collector.fails = [error]
    world.put("a", eventful=True)
    await work(world, 1)
    world.put("b", eventful=True)
    await work(world, 1)

    assert world.collector.exports == [["b"]]
    assert (world.exporter.sent, world.exporter.dropped, world.exporter.queued) == (1, 1, 0)


async def test_spans_that_the_collector_refuses_are_counted() -> None:
    world = World()
    world.collector.refused = 1
    world.put("a", "b", eventful=True)
    await work(world, 1)

    assert (world.exporter.sent, world.exporter.dropped) == (1, 1)
    assert world.logged() == [names.TRACES_DROPPED]


async def test_the_end_sends_what_is_left_and_waits_for_nobody() -> None:
    world = World()
    world.put("a")
    await world.exporter.flush(2)
    assert world.collector.exports == [["a"]]
    world.collector.hanging = True
    world.put("b")
    await asyncio.wait_for(world.exporter.flush(2), 3)

    assert world.exporter.dropped == 1


def test_a_span_on_the_wire() -> None:
    context = TraceContext(TRACE, "b7ad6b7169203331", sampled=True, state="vendor=1")
    spans = [
        Span(
            "00f067aa0ba902b7", context.span_id, "root", SpanKind.SERVER, 1_000, 1_250,
            [("s", "x"), ("b", True), ("i", 2**40), ("f", 0.5), ("l", ("a", "b"))],
            [SpanEvent("e", 1_100, (("k", "v"),))], "went wrong",
        ),
        Span("00f067aa0ba902b8", "00f067aa0ba902b7", "child", SpanKind.CLIENT, 1_000, 1_000),
    ]  # fmt: skip
    export = ExportTraceServiceRequest.FromString(PACKER.pack([Parcel(TRACE, context, spans)]))

    [listed] = export.resource_spans
    assert listed.resource.attributes[0].value.string_value == "test"
    root, child = listed.scope_spans[0].spans
    assert root.trace_id == child.trace_id == bytes.fromhex(TRACE)
    assert root.parent_span_id == bytes.fromhex(context.span_id)
    assert (root.trace_state, child.trace_state) == ("vendor=1", "")
    assert (root.flags, child.flags) == (0x301, 0x101)
    assert root.start_time_unix_nano == 1_000_000_000
    assert root.end_time_unix_nano == 1_250_000_000
    assert child.parent_span_id == root.span_id
    assert (root.kind, child.kind) == (WireSpan.SPAN_KIND_SERVER, WireSpan.SPAN_KIND_CLIENT)
    told = {each.key: each.value for each in root.attributes}
    assert told["b"].bool_value is True
    assert told["i"].int_value == 2**40
    assert told["f"].double_value == 0.5
    assert [each.string_value for each in told["l"].array_value.values] == ["a", "b"]
    assert root.events[0].time_unix_nano == 1_100_000_000
    assert root.status.message == "went wrong"
    assert child.status.code == 0
