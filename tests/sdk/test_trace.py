"""The caller's trace goes along, if OpenTelemetry's API is installed; this one is."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import escalade
from escalade import _trace, testing
from escalade.testing import Pause, answer, selected

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def in_a_span() -> Iterator[None]:
    """Enter the context that a request with this header has."""
    propagate = importlib.import_module("opentelemetry.propagate")
    context = importlib.import_module("opentelemetry.context")
    token = context.attach(propagate.extract({"traceparent": TRACE, "tracestate": "vendor=1"}))
    yield
    context.detach(token)


@pytest.mark.usefixtures("in_a_span")
def test_the_trace_goes_along_with_every_run() -> None:
    script: list[testing.Reply] = [[selected(), Pause(0), testing.Cut()], answer("x"), answer("y")]
    with testing.Server(script) as server, server.client() as client:
        client.complete("x")
        client.with_options(metadata={"traceparent": "mine"}).complete("y")

    headers = [call.metadata for call in server.calls]
    assert [one["traceparent"] for one in headers] == [TRACE, TRACE, "mine"]
    assert headers[0]["tracestate"] == "vendor=1"


def test_without_a_span_nothing_goes_along() -> None:
    with testing.Server([answer("x")]) as server, server.client() as client:
        client.complete("x")

    assert "traceparent" not in server.calls[0].metadata


def test_headers_that_cannot_travel_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        @staticmethod
        def inject(carrier: dict[str, str], context: object) -> None:
            carrier.update({"X-B3-TraceId": "1", "baggage": "ü", "other": "a\nb"})

    api = _trace._api()
    assert api is not None
    monkeypatch.setattr(_trace, "_api", lambda: api._replace(propagate=Odd()))
    span = _trace.CallSpan(_trace.COMPLETE, "r", _trace.current())

    assert span.headers == (("x-b3-traceid", "1"),)
    assert span.beside((("x-b3-traceid", "mine"),)) == (("x-b3-traceid", "mine"),)


def test_without_opentelemetry_all_works() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from escalade import testing\n"
        "with testing.Server([testing.answer('x')]) as server, server.client() as client:\n"
        "    assert client.complete('x').text == 'x'\n"
        "    assert 'traceparent' not in server.calls[0].metadata\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Record the spans that the client makes."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    api = _trace._api()
    assert api is not None
    recording = SimpleNamespace(
        get_tracer=provider.get_tracer,
        set_span_in_context=trace.set_span_in_context,
        SpanKind=trace.SpanKind,
        Status=trace.Status,
        StatusCode=trace.StatusCode,
    )
    monkeypatch.setattr(_trace, "_api", lambda: api._replace(trace=recording))
    return exporter


@pytest.mark.usefixtures("in_a_span")
def test_every_call_on_the_wire_is_a_span_whose_id_goes_along(spans: InMemorySpanExporter) -> None:
    script: list[testing.Reply] = [[selected(), Pause(0), testing.Cut()], answer("x")]
    with testing.Server(script) as server, server.client() as client:
        client.complete("x", request_id="mine")

    cut, good = spans.get_finished_spans()
    assert [span.name for span in (cut, good)] == ["escalade.v1.RouterService/Complete"] * 2
    told = [span.attributes or {} for span in (cut, good)]
    assert [each["rpc.response.status_code"] for each in told] == ["UNAVAILABLE", "OK"]
    assert [each.get("error.type") for each in told] == ["UNAVAILABLE", None]
    assert [span.status.is_ok for span in (cut, good)] == [False, True]
    assert told[1]["escalade.request_id"] == "mine"
    assert good.kind is trace.SpanKind.CLIENT
    assert good.parent is not None
    assert f"{good.parent.trace_id:032x}-{good.parent.span_id:016x}" in TRACE
    context = good.get_span_context()
    assert context is not None
    sent = server.calls[1].metadata["traceparent"]
    assert sent == f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def test_a_stream_that_is_left_is_cancelled(spans: InMemorySpanExporter) -> None:
    with (
        testing.Server([answer("x")]) as server,
        server.client() as client,
        client.stream("x"),
    ):
        assert spans.get_finished_spans() == ()

    (left,) = spans.get_finished_spans()
    assert (left.attributes or {})["rpc.response.status_code"] == "CANCELLED"


def test_a_route_is_a_span(spans: InMemorySpanExporter) -> None:
    with (
        testing.Server([]) as server,
        server.client() as client,
        client.route("debug") as route,
        pytest.raises(escalade.TransportError),
    ):
        list(route)

    (span,) = spans.get_finished_spans()
    assert span.name == "escalade.v1.RouterService/Route"
    assert (span.attributes or {})["rpc.response.status_code"] == "FAILED_PRECONDITION"
