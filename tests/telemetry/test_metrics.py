"""The metrics: each fact once, exactly, by bounded names; readable while the loop is stuck."""

import asyncio
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from escalade_server.core.facts import (
    Alert,
    AlertKind,
    ErrorReason,
    Escalated,
    EscalationKind,
    EscalationReason,
    Fact,
    Failed,
    Fallback,
    Finished,
    Outcome,
    Selected,
    Waiting,
)
from escalade_server.core.failure import FailureClass
from escalade_server.core.gates import Gate
from escalade_server.core.standing import VerdictClass
from escalade_server.core.task import Usage
from escalade_server.core.trace import AttemptStatus, Oddities
from escalade_server.core.tracing import TraceContext
from escalade_server.engine.news import AlertNews, Entry
from escalade_server.telemetry import catalogue, conventions
from escalade_server.telemetry.endpoint import Endpoint
from escalade_server.telemetry.gather import Gathered, wrong_with_all
from escalade_server.telemetry.instruments import (
    OTHER,
    SERIES_MAX,
    Counter,
    Histogram,
    Kind,
    Metric,
    Sampled,
    Samples,
)
from escalade_server.telemetry.metrics import AGENTS_MAX, Metrics
from escalade_server.telemetry.outlook import on_loop
from tests.api.world import record
from tests.telemetry.test_logs import FINISHED, REPORT, REQUEST

TRACED = replace(REQUEST, trace=TraceContext("a" * 32, "b" * 16, sampled=True))
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def text_of(metrics: Metrics, accept: str = OPEN_METRICS) -> str:
    registry = CollectorRegistry()
    for fed in (*metrics.counters.values(), *metrics.histograms.values()):
        registry.register(fed)
    encode, _ = choose_encoder(accept)
    return encode(registry).decode()


def samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        yield from family.samples


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Read the series of one sample name, by the values of their labels in alphabetical order."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for sample in samples(text_of(metrics))
        if sample.name == name
    }


def after(*outcomes: Outcome, facts: tuple[Fact, ...] = ()) -> Metrics:
    metrics = Metrics()
    for number, outcome in enumerate(outcomes):
        for fact in facts:
            metrics.fact(f"t{number}", REQUEST, fact, 1_000)
        metrics.ended(f"t{number}", REQUEST, outcome)
    assert metrics.failed == 0
    return metrics


def test_an_answer_is_counted_with_all_its_figures() -> None:
    first = replace(record(1), usage=Usage(10, 5, 4, 0, 2), list_nanos=2_000, charged_nanos=1_500)
    report = replace(
        REPORT, layer_path=("free",), attempts=(first,), answered=first.model,
        charged_nanos=1_500, baseline_nanos=400_000,
    )  # fmt: skip
    metrics = after(FINISHED._replace(report=report))
    assert values(metrics, "escalade_requests_total") == {("free", "ok", "debug"): 1}
    assert values(metrics, "escalade_agent_requests_total") == {("agent-1",): 1}
    of = ("free", "mini", "mini-vendor")
    assert values(metrics, "escalade_attempts_total") == {("", *of, "ok"): 1}
    tokens = values(metrics, "escalade_tokens_total")
    assert {kind: count for (kind, *_), count in tokens.items()} == {
        "input": 10, "output": 5, "cached": 4, "cache_write": 0, "reasoning": 2,
    }  # fmt: skip
    assert values(metrics, "escalade_cost_usd_total") == {of: pytest.approx(1.5e-6)}
    assert values(metrics, "escalade_list_value_usd_total") == {of: pytest.approx(2e-6)}
    assert values(metrics, "escalade_agent_cost_usd_total") == {("agent-1",): pytest.approx(1.5e-6)}
    assert values(metrics, "escalade_baseline_usd_total") == {(): pytest.approx(4e-4)}
    assert metrics.compared_nanos == 1_500
    assert values(metrics, "escalade_task_duration_seconds_sum") == {("ok",): pytest.approx(1.2)}
    said = ("chat", "mini-vendor", "mini-wire")
    usage = values(metrics, "gen_ai_client_token_usage_sum")
    assert usage == {(*said, "input"): 10, (*said, "output"): 5}
    assert values(metrics, "gen_ai_client_operation_duration_seconds_count")[("", *said)] == 1


def test_an_escalation_is_one_with_the_trace_of_its_caller() -> None:
    metrics = Metrics()
    kind, reason = EscalationKind.FAILURE, EscalationReason.RATE_LIMIT
    metrics.fact("t1", TRACED, Escalated("free", "paid", reason, "full", kind), 5_000)
    (sample,) = [
        sample
        for sample in samples(text_of(metrics))
        if sample.name == "escalade_escalations_total"
    ]
    assert sample.labels == {
        "from_layer": "free", "to_layer": "paid", "reason": "rate_limit", "kind": "failure",
    }  # fmt: skip
    assert sample.value == 1
    assert sample.exemplar is not None
    assert sample.exemplar.labels == {"trace_id": "a" * 32}
    assert str(sample.exemplar.timestamp) == "5.000000000"
    assert "# {" not in text_of(metrics, "text/plain")


def test_a_signal_that_no_table_knows_is_seen_the_first_time() -> None:
    """Prometheus sees an increase only of a series that was there before."""
    metrics, model = Metrics(), record(1).model
    metrics.expect([model])
    of, name = ("mini", "mini-vendor"), "escalade_unclassified_signals_total"
    assert values(metrics, name) == {of: 0}
    unknown = replace(record(1), status=AttemptStatus.FAILED, failure=FailureClass.UNKNOWN)
    report = replace(REPORT, attempts=(unknown,))
    metrics.ended("t", REQUEST, Failed(ErrorReason.ALL_MODELS_FAILED, "why", report))
    metrics.expect([model])
    assert values(metrics, name) == {of: 1}


def test_failures_are_told_apart() -> None:
    failed = replace(
        record(1), status=AttemptStatus.FAILED, failure=FailureClass.UNKNOWN, finish=None
    )
    broken = replace(record(2), status=AttemptStatus.RETRACTED, failure=FailureClass.PROTOCOL)
    poor = replace(
        record(3), status=AttemptStatus.REJECTED, gate=Gate.INVALID_JSON,
        failure=FailureClass.PROTOCOL, oddities=Oddities(replaced=2),
    )  # fmt: skip
    good, model = record(4), record(1).model
    report = replace(REPORT, attempts=(failed, broken, poor, good), waited_ms=1_500)
    gates = Gate.INVALID_JSON, Gate.TOO_SHORT
    facts: tuple[Fact, ...] = (
        *(
            Selected(n, model, f"r{n}", 9, 1, 1, (), gates if n > 2 else ())
            for n in range(1, 5)
        ),
        Fallback(1, model, model, FailureClass.UNKNOWN, "?"),
        Waiting(VerdictClass.RATE, 9_000, "50/day"),
        Waiting(VerdictClass.RATE, 9_000, "50/day", repeated=True),
    )  # fmt: skip
    metrics = after(
        FINISHED._replace(report=report), Failed(ErrorReason.RATE_LIMITED, "why", REPORT),
        facts=facts,
    )  # fmt: skip
    of = ("free", "mini", "mini-vendor")
    assert values(metrics, "escalade_attempts_total") == {
        ("", *of, "ok"): 1,
        ("unknown", *of, "failed"): 1,
        ("protocol", *of, "retracted"): 1,
        ("", *of, "rejected"): 1,
    }
    seconds = values(metrics, "gen_ai_client_operation_duration_seconds_count")
    assert {labels[0]: count for labels, count in seconds.items()} == {
        "": 2, "unknown": 1, "protocol": 1,
    }  # fmt: skip
    assert values(metrics, "escalade_retractions_total") == {("protocol", *of): 1}
    assert values(metrics, "escalade_unclassified_signals_total") == {("mini", "mini-vendor"): 1}
    assert values(metrics, "escalade_odd_answers_total") == {("mini", "replaced", "mini-vendor"): 1}
    assert values(metrics, "escalade_fallbacks_total") == {("unknown", *of): 2}
    assert values(metrics, "escalade_waits_total") == {("rate",): 2}
    assert values(metrics, "escalade_wait_duration_seconds_sum") == {(): pytest.approx(1.5)}
    assert values(metrics, "escalade_gate_verdicts_total") == {
        ("invalid_json", "failed"): 1,
        ("invalid_json", "passed"): 1,
        ("too_short", "passed"): 1,
    }
    assert values(metrics, "escalade_requests_total") == {
        ("", "ok", "debug"): 1,
        ("", "rate_limited", "debug"): 1,
    }
    assert not metrics._gates
    assert not metrics._waiting


def test_r27_what_is_told_again_is_counted_but_costs_nothing_twice() -> None:
    report = replace(REPORT, attempts=(record(1),), charged_nanos=7, baseline_nanos=9)
    metrics = after(
        FINISHED._replace(report=report, replayed=True),
        Failed(ErrorReason.ALREADY_ANSWERED, "was", report),
    )
    assert values(metrics, "escalade_requests_total") == {
        ("", "replayed", "debug"): 1,
        ("", "already_answered", "debug"): 1,
    }
    assert not values(metrics, "escalade_cost_usd_total")
    assert values(metrics, "escalade_baseline_usd_total") == {(): 0}


def test_agents_are_bounded() -> None:
    metrics = Metrics()
    for number in range(AGENTS_MAX + 30):
        metrics.ended("t", replace(REQUEST, agent=f"a{number}"), FINISHED)
    found = values(metrics, "escalade_agent_requests_total")
    assert len(found) == AGENTS_MAX + 1
    assert found[OTHER,] == 30


def test_series_are_bounded_whatever_happens() -> None:
    counter = Counter(Metric("x", Kind.COUNTER, "X.", ("a", "b")))
    histogram = Histogram(Metric("y", Kind.HISTOGRAM, "Y.", ("a",), 1, (1, 2)))
    for number in range(SERIES_MAX + 7):
        counter.of(str(number), "b").value += 1
        histogram.of(str(number)).add(1)
    assert len(counter._series) == SERIES_MAX + 1
    assert counter._series[OTHER, OTHER].value == 7
    assert sum(histogram._series[OTHER,].counts) == 7


def test_a_fact_that_cannot_be_counted_is_no_fault_of_the_task() -> None:
    metrics = Metrics()
    metrics.ended("t", REQUEST, Finished(None, FINISHED.answer))  # type: ignore[arg-type]  # on purpose
    metrics.fact("t", REQUEST, Fallback(1, None, None, FailureClass.AUTH, ""), 1)  # type: ignore[arg-type]  # as above
    assert metrics.failed == 2


def test_alerts_are_counted_from_the_feed_where_each_is_once() -> None:
    metrics = Metrics()
    metrics.fact("t", REQUEST, Alert(AlertKind.AUTH, "no key"), 1)
    metrics.told([Entry(1, AlertNews(AlertKind.BUDGET, "80 %"))])
    assert values(metrics, "escalade_alerts_total") == {("budget",): 1}


BOUNDS = (10, 20, 40)


@given(st.lists(st.integers(0, 60), max_size=60))
def test_a_histogram_counts_as_prometheus_does(taken: list[int]) -> None:
    histogram = Histogram(Metric("y_seconds", Kind.HISTOGRAM, "Y.", (), 1e-3, BOUNDS))
    for value in taken:
        histogram.of().add(value)
    (family,) = histogram.collect()
    found = {s.labels.get("le", s.name): s.value for s in family.samples}
    if not taken:
        assert found == {}
        return
    for bound in BOUNDS:
        assert found[str(bound / 1_000)] == sum(value <= bound for value in taken)
    assert found["+Inf"] == found["y_seconds_count"] == len(taken)
    assert found["y_seconds_sum"] == pytest.approx(sum(taken) / 1_000)


def test_reading_while_counting_gives_whole_numbers() -> None:
    metrics, over = Metrics(), threading.Event()

    def count() -> None:
        chance = random.Random(7)
        while not over.is_set():
            agent = f"a{chance.randrange(100)}"
            metrics.ended("t", replace(REQUEST, agent=agent), FINISHED)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        seen = 0.0
        for _ in range(50):
            total = sum(values(metrics, "escalade_requests_total").values())
            assert total >= seen
            assert total == int(total)
            seen = total
    finally:
        over.set()
        thread.join()
    assert metrics.failed == 0


def test_names_are_the_published_ones() -> None:
    """OpenTelemetry to Prometheus: dots become underscores, the unit is added, {token} is not."""
    published = {
        "gen_ai.client.token.usage": catalogue.GENAI_USAGE,
        "gen_ai.client.operation.duration s": catalogue.GENAI_SECONDS,
        "gen_ai.client.operation.time_to_first_chunk s": catalogue.GENAI_FIRST,
        "rpc.server.call.duration s": catalogue.RPC_SECONDS,
    }
    for name, metric in published.items():
        base, _, unit = name.partition(" ")
        assert metric.name == base.replace(".", "_") + ("_seconds" if unit else "")
        known = {
            value.replace(".", "_")
            for value in vars(conventions).values()
            if isinstance(value, str)
        }
        assert set(metric.labels) <= known | {"gen_ai_token_type"}


def test_the_catalogue_is_in_order() -> None:
    names = [metric.name for metric in catalogue.METRICS]
    assert len(set(names)) == len(names)
    for metric in catalogue.METRICS:
        assert metric.name.startswith(("escalade_", "gen_ai_", "rpc_")), metric.name
        assert metric.means.endswith("."), metric.name
        assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets), metric.name
        assert list(metric.buckets) == sorted(metric.buckets), metric.name
        assert not metric.name.endswith("_total"), metric.name
    stated = {value.name for value in vars(catalogue).values() if isinstance(value, Metric)}
    assert stated == set(names)


def test_every_fact_is_counted_or_known_to_count_with_the_ending() -> None:
    with_ending = {"Assessed", "Retracted", "Alert"}
    assert {fact.__name__ for fact in get_args(Fact)} == with_ending | {
        fact.__name__ for fact in Metrics()._counted
    }


# ------------------------------------------------------------------------------ where it is read


def get(where: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{where}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def endpoint(
    render: str = "# EOF\n", alive: str = "", ready: str = "", address: tuple[str, int] | str = ""
) -> Endpoint:
    return Endpoint(
        address or ("127.0.0.1", 0),
        render=lambda _accept: ("text/plain", render.encode()),
        alive=lambda: alive,
        ready=lambda: ready,
        mistakes=lambda _error: "id-1",
    )


def test_the_endpoint_says_what_is_wrong() -> None:
    served = endpoint("x 1\n", alive="the loop is stuck", ready="ledger")
    try:
        assert get(served.where, "/metrics?x=y") == (200, "x 1\n")
        assert get(served.where, "/livez") == (503, "the loop is stuck\n")
        assert get(served.where, "/readyz") == (503, "ledger\n")
        assert get(served.where, "/")[0] == 404
    finally:
        served.close()
    with pytest.raises(urllib.error.URLError):
        get(served.where, "/metrics")


def test_a_mistake_of_the_endpoint_keeps_its_words_to_itself() -> None:
    def broken(_accept: str) -> tuple[str, bytes]:
        raise RuntimeError("the prompt")

    served = Endpoint(
        ("127.0.0.1", 0), render=broken, alive=str, ready=str, mistakes=lambda _error: "id-1"
    )
    try:
        assert get(served.where, "/metrics") == (500, "a mistake of ours: id-1\n")
    finally:
        served.close()


@pytest.mark.fault("X6")
async def test_x6_metrics_are_read_while_the_loop_is_stuck() -> None:
    looks = 0

    def look() -> Mapping[str, Sampled]:
        nonlocal looks
        looks += 1
        return {catalogue.WAITERS.name: {(): looks}}

    take = on_loop(asyncio.get_running_loop(), look, wait_s=1.0)
    waiters = Samples([catalogue.WAITERS], take)

    def read() -> float:
        (family,) = waiters.collect()
        return family.samples[0].value

    assert await asyncio.to_thread(read) == 1
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(read()))
    thread.start()
    while thread.is_alive():  # nothing else runs on the loop
        time.sleep(0.01)  # noqa: ASYNC251 - that is what is tested
    assert found == [1]
    await asyncio.sleep(0)
    assert await asyncio.to_thread(read) >= 2


async def test_what_cannot_be_looked_at_is_a_mistake_that_is_seen() -> None:
    def look() -> Mapping[str, Sampled]:
        raise ZeroDivisionError

    take = on_loop(asyncio.get_running_loop(), look)
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(take)


def test_workers_are_shown_as_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("w")
    reason, kind = EscalationReason.OUTAGE, EscalationKind.FAILURE
    served = {}
    for number in range(2):
        metrics = after(*[FINISHED] * (number + 1))
        metrics.fact(f"t{number}", REQUEST, Escalated("a", "b", reason, "", kind), 1_000)
        served[str(number)] = endpoint(text_of(metrics), address=f"{folder}/{number}.sock")
    paths = {number: one.where.removeprefix("unix:") for number, one in served.items()}
    try:
        registry = CollectorRegistry()
        registry.register(Gathered(lambda: {**paths, "2": f"{folder}/nobody.sock"}))
        encode, _ = choose_encoder(OPEN_METRICS)
        text = encode(registry).decode()
    finally:
        for one in served.values():
            one.close()
    found = [sample for sample in samples(text) if sample.name == "escalade_requests_total"]
    assert {s.labels["worker"]: s.value for s in found} == {"0": 1, "1": 2}
    shown = [s for s in samples(text) if s.name == "escalade_escalations_total"]
    assert [s.exemplar.labels for s in shown if s.exemplar] == [
        {"trace_id": "t0"}, {"trace_id": "t1"},
    ]  # fmt: skip
    assert text.count("# TYPE escalade_requests ") == 1


def test_k5_workers_are_unwell_when_all_of_them_are(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("w")
    well = endpoint("", address=f"{folder}/1.sock")
    unwell = endpoint("", ready="ledger", address=f"{folder}/2.sock")
    both = [f"{folder}/2.sock", f"{folder}/1.sock"]
    try:
        assert wrong_with_all(both, "/readyz") == ""
        assert wrong_with_all(both[:1], "/readyz") == "ledger"
        assert wrong_with_all(both[:1], "/livez") == ""
        well.close()
        assert wrong_with_all(both, "/readyz") == "ledger", "who does not answer is not well"
    finally:
        well.close()
        unwell.close()
    assert wrong_with_all(both, "/readyz") == "no worker answers"
