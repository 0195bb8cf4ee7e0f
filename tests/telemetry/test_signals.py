"""The same escalation is found once, and equal, wherever one looks for it (guarantee 2)."""

import io
import json
from collections import Counter
from collections.abc import Sequence

import pytest

from escalade_server.core.facts import Escalated
from escalade_server.core.tracing import trace_id
from escalade_server.engine.feed import Feed
from escalade_server.engine.news import Entry, EscalatedNews
from escalade_server.telemetry import catalogue, names
from escalade_server.telemetry import conventions as c
from escalade_server.telemetry.logs import LogObserver, make_logger
from escalade_server.telemetry.metrics import Metrics
from escalade_server.telemetry.sink import LineSink
from escalade_server.telemetry.spans import spans_of
from tests.engine.shell import FakeCaller, LoopClock
from tests.telemetry.journeys import AROUND, Recorder, played, watched, wild

Change = tuple[str, str, str]
"""From, to, reason."""


class Entries:
    """Of a feed's store, what it is handed."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def record(self, entries: Sequence[Entry]) -> None:
        self.entries += entries


def streamed(callers: Sequence[FakeCaller]) -> list[Escalated]:
    return [heard for caller in callers for heard in caller.heard if isinstance(heard, Escalated)]


def change(fact: Escalated | EscalatedNews) -> Change:
    return fact.from_layer, fact.to_layer, fact.reason.value


@pytest.mark.looptime
@pytest.mark.parametrize("seed", range(40))
async def test_an_escalation_is_one_fact_in_every_signal(seed: int) -> None:
    (world, asked), seen = wild(seed), Recorder()
    stream, metrics, entries = io.StringIO(), Metrics(), Entries()
    sink = LineSink(stream)
    log = LogObserver(make_logger(sink, stream, "json", "info"), "info")
    feed = Feed(entries, LoopClock())  # type: ignore[arg-type]
    callers = await played(watched(world, seen, log, metrics, feed), asked)
    sink.close()

    told = streamed(callers)
    changes = [change(fact) for fact in told]
    news = [entry for entry in entries.entries if isinstance(entry.news, EscalatedNews)]
    assert [
        change(entry.news) for entry in news if isinstance(entry.news, EscalatedNews)
    ] == changes
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    lines = [line for line in lines if line["event"] == names.TASK_ESCALATED]
    assert [(at["from_layer"], at["to_layer"], at["reason"]) for at in lines] == changes
    assert [line["detail"] for line in lines] == [fact.detail for fact in told]

    spans = [
        (trace_id(journey.task_id, journey.request.trace), dict(span.attributes))
        for journey in seen.journeys.values()
        for span in spans_of(journey, AROUND)
    ]
    spans = [(trace, at) for trace, at in spans if c.REASON in at]
    assert [(at[c.FROM], at[c.TO], at[c.REASON]) for _, at in spans] == changes
    assert [at[c.KIND] for _, at in spans] == [fact.kind.value for fact in told]
    assert [trace for trace, _ in spans] == [entry.trace_id for entry in news]
    assert [trace for trace, _ in spans] == [line["trace_id"] for line in lines]

    tallies = [order.tally for order in world.store.settles if order.tally is not None]
    booked = [each for tally in (*tallies, *world.store.tallies) for each in tally.escalations]
    assert Counter(booked) == Counter(changes)
    assert counted(metrics) == Counter((*change(fact), fact.kind.value) for fact in told)


def counted(metrics: Metrics) -> Counter[tuple[str, ...]]:
    """Read the metric as Prometheus would."""
    found: Counter[tuple[str, ...]] = Counter()
    metric = catalogue.ESCALATIONS
    for family in metrics.counters[metric.name].collect():
        for sample in family.samples:
            if sample.name == metric.sample and sample.value:
                found[tuple(sample.labels[name] for name in metric.labels)] += int(sample.value)
    return found
