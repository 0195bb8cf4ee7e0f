"""What it costs to watch a task with all that watches a server: log, metrics, traces. In CPU µs."""

import io
from collections.abc import Callable
from pathlib import Path

from escalade_server.engine.clock import SystemClock
from escalade_server.engine.ports import Observer
from escalade_server.engine.traces import Trace, Wanted
from escalade_server.telemetry.journey import Journey, Journeys
from escalade_server.telemetry.keeper import TraceKeeper
from escalade_server.telemetry.logs import LogObserver, make_logger
from escalade_server.telemetry.metrics import Metrics
from escalade_server.telemetry.observers import Observers
from escalade_server.telemetry.otel import Sampling
from escalade_server.telemetry.redact import Redactor
from escalade_server.telemetry.sink import LineSink
from escalade_server.telemetry.tracer import Tracer
from tests.bench.machine import cost_us
from tests.bench.traces import Packed, journey
from tests.telemetry.journeys import AROUND


class Nowhere:
    """A store of traces that keeps none: what a straight task costs is asked, and writes none."""

    def keep_trace(self, trace: Trace) -> None:
        """Forget it."""

    async def find_trace(self, wanted: Wanted) -> Trace | None:
        """Find nothing."""


def watched(by: Observer, *, eventful: bool) -> Callable[[], object]:
    """Tell one task to an observer, from its first fact to its ending."""
    of = journey(eventful=eventful)
    facts, ending = of.told, of.outcome
    assert ending is not None, "it has ended"
    task_id, request = of.task_id, of.request

    def one() -> None:
        for fact, at_ms in facts:
            by.fact(task_id, request, fact, at_ms)
        by.ended(task_id, request, ending)

    return one


def measure(*, quick: bool) -> dict[str, float]:
    """CPU µs a task; the log in JSON, level info, its lines written by its thread."""
    number = 500 if quick else 5_000
    with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
        sink = LineSink(nowhere)
        secrets = Redactor([f"sk-of-provider-{number}" for number in range(8)])
        log = make_logger(sink, io.StringIO(), "json", "info", secrets)
        lines = LogObserver(log, "info", every_task=False)
        running: dict[str, Journey] = {}
        tracer = Tracer(Packed(), Sampling(0), AROUND, log, slow_ms=60_000)
        keeper = TraceKeeper(Nowhere(), AROUND, SystemClock(), log, running)
        metrics, traces = Metrics(), Journeys((keeper, tracer), running)
        everyone = Observers((lines, metrics, traces))
        ways: dict[str, tuple[Observer, bool]] = {
            "metrics, straight task": (metrics, False),
            "log, straight task": (lines, False),
            "traces (kept, not exported), straight task": (traces, False),
            "all watchers, straight task": (everyone, False),
            "metrics, escalated task": (metrics, True),
            "log, escalated task": (lines, True),
        }
        found = {
            name: cost_us(watched(by, eventful=eventful), number)
            for name, (by, eventful) in ways.items()
        }
        sink.close()
    assert not metrics.failed
    return found
