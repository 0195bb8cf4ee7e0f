"""The caller's trace goes along, if OpenTelemetry's API is installed; this one is."""

import importlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

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
    def inject(carrier: dict[str, str]) -> None:
        carrier.update({"X-B3-TraceId": "1", "baggage": "ü", "other": "a\nb"})

    monkeypatch.setattr(_trace, "_inject", lambda: inject)

    assert _trace.trace_metadata() == (("x-b3-traceid", "1"),)


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
