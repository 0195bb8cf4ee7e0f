"""Which tasks are exported, and when their spans go out."""

import io
from dataclasses import replace

import pytest

from escalade_server.core.facts import Alert, Failed, Waiting
from escalade_server.core.trace import AttemptStatus
from escalade_server.telemetry import names
from escalade_server.telemetry.journey import Journeys
from escalade_server.telemetry.logs import make_logger
from escalade_server.telemetry.otel import Sampling
from escalade_server.telemetry.otlp import Parcel
from escalade_server.telemetry.sink import LineSink
from escalade_server.telemetry.spans import spans_of
from escalade_server.telemetry.tracer import Tracer
from tests.core.builders import request
from tests.telemetry.journeys import AROUND, CONTEXT, Recorder, bumpy, played, watched, wild

NOTHING = Sampling(0)


class Outlet:
    """Keeps what is put into it."""

    def __init__(self) -> None:
        self.parcels: list[tuple[Parcel, bool]] = []

    def put(self, parcel: Parcel, *, eventful: bool) -> None:
        self.parcels.append((parcel, eventful))


def tracer(outlet: Outlet, sampling: Sampling = NOTHING, slow_ms: int = 30_000) -> Journeys:
    stream = io.StringIO()
    log = make_logger(LineSink(stream), stream, "json", "error")
    return Journeys((Tracer(outlet, sampling, AROUND, log, slow_ms=slow_ms),), {})


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("bound", "flag", "is_exported"),
    [
        (0, None, False),
        (0, True, True),
        (0, False, False),
        (2**64, None, True),
        (2**64, False, False),
    ],
)
async def test_an_uneventful_task_is_exported_by_flag_and_ratio(
    bound: int,
    flag: bool | None,  # noqa: FBT001 - a parameter
    is_exported: bool,  # noqa: FBT001 - a parameter
) -> None:
    world, outlet = bumpy(), Outlet()
    world.providers.scripts.clear()
    trace = None if flag is None else replace(CONTEXT, sampled=flag)
    await watched(world, tracer(outlet, Sampling(bound))).ask(replace(request(), trace=trace))

    assert [len(parcel.spans) for parcel, _ in outlet.parcels] == ([5] if is_exported else [])
    assert not any(eventful for _, eventful in outlet.parcels)


@pytest.mark.looptime
async def test_a_slow_task_is_eventful() -> None:
    world, outlet = bumpy(), Outlet()
    world.providers.scripts.clear()
    await watched(world, tracer(outlet, slow_ms=20)).ask(request())

    assert [eventful for _, eventful in outlet.parcels] == [True]


@pytest.mark.looptime
async def test_what_is_finished_goes_out_at_once() -> None:
    world, outlet = bumpy(), Outlet()
    await watched(world, tracer(outlet)).ask(request())

    sent = [[span.name for span in parcel.spans] for parcel, _ in outlet.parcels]
    assert sent == [
        ["assess", "chat mini"],
        ["layer free", "chat flash"],
        ["escalade.v1.RouterService/Complete", "layer budget", "chat glm", "settle"],
    ]


@pytest.mark.looptime
@pytest.mark.parametrize("seed", range(40))
async def test_at_a_ratio_of_nothing_no_eventful_task_is_lost(seed: int) -> None:
    (world, asked), seen, outlet = wild(seed), Recorder(), Outlet()
    made = tracer(outlet, Sampling(0, heeds_caller=False))
    await played(watched(world, seen, made), asked)

    every = [span.id for parcel, _ in outlet.parcels for span in parcel.spans]
    assert len(every) == len(set(every)), "each span is sent once"
    assert all(eventful for _, eventful in outlet.parcels)
    for journey in seen.journeys.values():
        outcome = journey.outcome
        assert outcome is not None
        report = outcome.report
        eventful = (
            isinstance(outcome, Failed)
            or len(report.layer_path) > 1
            or len(report.attempts) > 1
            or any(a.status is AttemptStatus.REJECTED for a in report.attempts)
            or any(isinstance(fact, Waiting | Alert) for fact, _ in journey.told)
        )
        ids = {span.id for span in spans_of(journey, AROUND)}
        assert (ids <= set(every)) is eventful, report.story


@pytest.mark.looptime
async def test_what_cannot_be_told_stops_nothing() -> None:
    stream, world, seen = io.StringIO(), bumpy(), Recorder()
    await watched(world, seen).ask(request())
    [journey] = seen.journeys.values()
    assert journey.outcome is not None
    sink = LineSink(stream)
    log = make_logger(sink, stream, "json", "error")
    made = Journeys((Tracer(Outlet(), Sampling(), AROUND, log, slow_ms=1),), {})
    for fact, at_ms in journey.told:
        made.fact("no hexadecimal", journey.request, fact, at_ms)
    made.ended("no hexadecimal", journey.request, journey.outcome)

    sink.close()
    assert names.OBSERVER_FAILED in stream.getvalue()
