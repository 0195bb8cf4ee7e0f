"""Traces over the wire: one id from the caller's context to the provider, the log and the feed."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc import aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import escalade
from escalade_server import bootstrap
from escalade_server.bootstrap import Running, StartError
from escalade_server.telemetry.wires import METHOD
from tests.bootstrap.test_bootstrap import KEYS, options
from tests.providers.raw_server import Peer, RawServer, serve
from tests.providers.test_dialect import DONE, STOP, TEXT, USAGE

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FOUND_S = 20.0


class Collector:
    """Takes exports as any collector does, and keeps them."""

    def __init__(self) -> None:
        self.exports: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str | bytes]] = []
        self.came = asyncio.Event()

    async def export(
        self, request: ExportTraceServiceRequest, context: "aio.ServicerContext[object, object]"
    ) -> ExportTraceServiceResponse:
        self.headers.append(dict(context.invocation_metadata() or ()))
        self.exports.append(request)
        self.came.set()
        return ExportTraceServiceResponse()

    @property
    def spans(self) -> dict[str, Span]:
        return {
            span.name: span
            for export in self.exports
            for listed in export.resource_spans
            for scope in listed.scope_spans
            for span in scope.spans
        }

    async def has(self, name: str) -> Span:
        """Wait for a span."""
        async with asyncio.timeout(FOUND_S):
            while name not in self.spans:
                self.came.clear()
                await self.came.wait()
        return self.spans[name]


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    server, collector = aio.server(), Collector()
    handler = grpc.unary_unary_rpc_method_handler(
        collector.export,
        ExportTraceServiceRequest.FromString,
        ExportTraceServiceResponse.SerializeToString,
    )
    service, _, method = METHOD.strip("/").partition("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def answer(peer: Peer) -> None:
    """Answer every request shortly, as OpenAI does."""
    while await peer.request():
        body = TEXT + STOP + USAGE + DONE
        await peer.answer(body, headers=b"Content-Type: text/event-stream\r\n")


def sent(provider: RawServer) -> list[str]:
    """The header of each call that a provider got."""
    found = []
    for head in provider.heads:
        lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        names = {name.decode().lower(): value.decode() for name, value in lines.items()}
        found.append(names["traceparent"])
        assert "tracestate" not in names, "vendors' words are not for providers"
    return found


@asynccontextmanager
async def serving(
    folder: Path, environ: dict[str, str], log: io.StringIO
) -> AsyncIterator[tuple[Running, RawServer]]:
    async with serve(answer) as provider:
        told = options(folder, provider.url.removesuffix("/chat/completions"))
        told = replace(told, log_level="debug")
        running = await bootstrap.start(told, environ=KEYS | environ, log_stream=log)
        try:
            yield running, provider
        finally:
            await running.stop()


def lines(log: io.StringIO, event: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in found if line["event"] == event]


async def test_a_callers_trace_goes_on_everywhere(tmp_path: Path) -> None:
    log, context = io.StringIO(), f"00-{TRACE}-{SPAN}-01"
    async with collecting() as (collector, url):
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=collector-key",
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            "OTEL_BSP_SCHEDULE_DELAY": "10",
        }
        async with (
            serving(tmp_path, environ, log) as (running, provider),
            escalade.AsyncClient(running.target) as client,
        ):
            view = client.with_options(
                metadata={"traceparent": context, "tracestate": "vendor=1", "escalade-x": "y"}
            )
            told = await view.complete("Hello.")
            call = await collector.has("chat gpt-4o-mini")
            await collector.has("settle")

    root = collector.spans["escalade.v1.RouterService/Complete"]
    assert told.report.trace_id == TRACE
    assert {span.trace_id.hex() for span in collector.spans.values()} == {TRACE}
    assert root.parent_span_id.hex() == SPAN
    assert root.trace_state == "vendor=1"
    assert sent(provider) == [f"00-{TRACE}-{call.span_id.hex()}-01"]
    [finished] = lines(log, "task.finished")
    assert finished["trace_id"] == TRACE
    assert finished["task_id"] != TRACE, "two tasks of one trace are two"
    assert collector.headers[0]["api-key"] == "collector-key"
    assert "collector-key" not in log.getvalue()
    named = {
        kv.key: kv.value.string_value
        for kv in collector.exports[0].resource_spans[0].resource.attributes
    }
    assert named["service.name"] == "escalade"
    address = {kv.key: kv.value for kv in call.attributes}
    assert address["server.address"].string_value == "127.0.0.1"
    assert address["server.port"].int_value == provider.port


@pytest.mark.parametrize("context", ["", "nonsense", f"00-{'0' * 32}-{SPAN}-01"])
async def test_a_malformed_context_begins_a_fresh_trace(tmp_path: Path, context: str) -> None:
    log = io.StringIO()
    async with (
        serving(tmp_path, {}, log) as (running, provider),
        escalade.AsyncClient(running.target) as client,
    ):
        view = client.with_options(metadata={"traceparent": context})
        told = [await view.complete("Hello.") for _ in range(2)]

    ids = [answer.report.trace_id for answer in told]
    assert len(set(ids)) == 2
    assert [line["trace_id"] for line in lines(log, "task.finished")] == ids
    assert [header.split("-")[1] for header in sent(provider)] == ids


async def test_a_collector_that_is_down_costs_no_task_anything(tmp_path: Path) -> None:
    log = io.StringIO()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY": "1"}
    async with (
        serving(tmp_path, environ, log) as (running, _),
        escalade.AsyncClient(running.target) as client,
    ):
        for _ in range(5):
            assert (await client.complete("Hello.")).text == "Hi"
        async with asyncio.timeout(FOUND_S):
            while not lines(log, "traces.failing"):  # noqa: ASYNC110 - the log tells nobody
                await asyncio.sleep(0.02)
        assert (await client.complete("Hello.")).text == "Hi"

    assert len(lines(log, "traces.failing")) == 1
    [dropped] = lines(log, "traces.dropped")
    assert dropped["spans"] == 6 * 5


async def test_what_is_not_honoured_is_said_in_one_line(tmp_path: Path) -> None:
    log = io.StringIO()
    environ = {
        "OTEL_TRACES_EXPORTER": "zipkin",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    }
    async with serving(tmp_path, environ | {"OTEL_PROPAGATORS": "b3"}, log):
        pass

    [said] = lines(log, "traces.setting")
    assert "zipkin" in str(said["detail"])
    assert "OTEL_PROPAGATORS" in str(said["detail"])
    [exported] = lines(log, "traces.exported")
    assert exported["endpoint"] == "127.0.0.1:1"


async def test_a_certificate_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "none.pem"),
    }
    with pytest.raises(StartError, match="OTEL_EXPORTER_OTLP_CERTIFICATE"):
        async with serving(tmp_path, environ, io.StringIO()):
            pass
