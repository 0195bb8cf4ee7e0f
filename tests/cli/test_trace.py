"""`escalade trace`: one task on one axis, in a terminal, in a file, as a page and as data."""

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console

from escalade.v1 import operations_service_pb2 as wire
from escalade.v1.operations_service_pb2 import GetTraceResponse
from escalade_server.api.callers import Identity
from escalade_server.api.status import RefusedError
from escalade_server.api.trace import UNKNOWN, serve
from escalade_server.cli.trace import show
from escalade_server.cli.waterfall import waterfall_of
from escalade_server.core.catalog import Agent, Rank
from escalade_server.report.waterfall import Axis, Kind, Row, Waterfall, as_html, span
from escalade_server.telemetry.journey import Journeys
from escalade_server.telemetry.keeper import TraceKeeper
from tests.cli.commands import data, run
from tests.cli.eventful import JSON, PROSE, REQUEST_ID, eventful
from tests.faults.served import KEY

T0 = 1_790_000_000_000


def shown(told: Waterfall, width: int, *, terminal: bool = True) -> list[str]:
    with io.StringIO() as file:
        out = Console(file=file, width=width, force_terminal=terminal, color_system=None)
        show(told, out)
        return file.getvalue().splitlines()


async def trace(folder: Path, log: io.StringIO | None = None) -> GetTraceResponse:
    async with eventful(folder, log) as (_, client):
        return await client.trace(REQUEST_ID)


async def test_a_task_that_met_everything_reads_from_top_to_bottom(tmp_path: Path) -> None:
    log = io.StringIO()
    told = await trace(tmp_path, log)
    fall = waterfall_of(told)

    assert [(row.kind, row.depth, row.name) for row in fall.rows] == [
        (Kind.TASK, 0, "task"),
        (Kind.STEP, 1, "assess"),
        (Kind.LAYER, 1, "free_primary"),
        (Kind.FAILED, 2, "1. gpt-4o-mini failed"),
        (Kind.FAILED, 2, "2. deepseek-chat failed"),
        (Kind.LAYER, 1, "budget_subscription"),
        (Kind.FAILED, 2, "3. qwen3-coder rejected"),
        (Kind.LAYER, 1, "premium_reserve"),
        (Kind.ATTEMPT, 2, "4. gpt-4o"),
        (Kind.STEP, 1, "settle"),
    ]
    for row in fall.rows:
        assert fall.rows[0].start_ms <= row.start_ms <= row.end_ms <= fall.rows[0].end_ms
    notes = [note for row in fall.rows for note in row.notes]
    assert [note for note in notes if note.startswith("failure from ")] == [
        "failure from free_primary, outage: deepseek-chat: server error (HTTP 500)",
        "failure from budget_subscription, quality: qwen3-coder: was no JSON",
    ]
    assert any(note.startswith("rate_short: too many requests") for note in notes)
    assert "gate invalid_json: failed, was no JSON" in notes
    assert "gate invalid_json: passed" in notes
    assert fall.rows[8].tokens == "7 → 13"
    assert ("charged", "$0.0083") in fall.facts
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    ups = [line["reason"] for line in lines if line["event"] == "task.escalated"]
    assert ups == ["outage", "quality"]
    assert told.trace_id in {line.get("trace_id") for line in lines}


async def test_nothing_of_prompt_answer_or_key_is_in_it(tmp_path: Path) -> None:
    told = await trace(tmp_path)
    page = as_html(waterfall_of(told))
    for secret in ("Write the invoice", PROSE[:20], JSON[:20], "made-up", KEY):
        assert secret not in f"{told}"
        assert secret not in page


def rows(*waits: tuple[int, int]) -> tuple[Row, ...]:
    made = [Row(Kind.TASK, 0, "task", T0, T0 + 10_000)]
    made += [
        Row(Kind.WAIT, 1, "wait", T0 + begin, T0 + end, notes=("rate",)) for begin, end in waits
    ]
    return (*made, Row(Kind.ATTEMPT, 1, "1. m", T0 + 9_500, T0 + 10_000, T0 + 9_750, "1 → 2", "$1"))


def test_the_axis_is_linear_but_for_long_waits() -> None:
    plain = Axis(rows((1_000, 2_000)))
    assert not plain.is_bent
    assert plain.at(T0 + 2_500) == pytest.approx(0.25)
    bent = Axis(rows((500, 9_500)))
    assert bent.is_bent
    assert bent.at(T0) == 0.0
    assert bent.at(T0 + 10_000) == pytest.approx(1.0)
    assert bent.at(T0 + 9_500) - bent.at(T0 + 500) == pytest.approx(0.3)
    assert bent.at(T0 + 500) == pytest.approx(0.35)
    assert [word for _, word in bent.ticks()] == ["0 ms", "10.0 s"]
    assert not Axis(rows((50, 10_000))).is_bent, "there is nothing to see beside the wait"
    empty = Axis(())
    assert empty.at(5) == 0.0 or empty.at(5) == 1.0


@pytest.mark.parametrize(
    ("ms", "words"),
    [(0, "0 ms"), (999, "999 ms"), (1_240, "1.24 s"), (12_345, "12.3 s"), (61_000, "1 min 1 s"),
     (3_720_000, "1 h 2 min")],
)  # fmt: skip
def test_spans_of_time_are_short(ms: int, words: str) -> None:
    assert span(ms) == words


@pytest.mark.parametrize("width", [72, 80, 120, 200])
def test_bars_share_one_axis_and_lines_fit(width: int) -> None:
    told = Waterfall("Task r", "A story.", (("request", "r"),), rows((500, 9_500)))
    lines = shown(told, width)
    assert all(len(line) <= width for line in lines)
    bars = [re.search("[█░]+", line) for line in lines]
    task, wait, attempt = (found.span() for found in bars if found)
    assert task[0] < wait[0] < wait[1] <= attempt[0] < attempt[1] == task[1]
    assert "Waits are drawn shorter than they were." in lines


def test_a_file_gets_whole_lines() -> None:
    long = Row(Kind.FAILED, 1, "1. m failed", T0, T0 + 5, notes=("why " * 100,))
    told = Waterfall("Task r", "A story.", (), (*rows(), long))
    assert max(map(len, shown(told, 80, terminal=False))) > 300


def test_a_page_stands_alone_and_escapes_everything() -> None:
    evil = '<script>alert("x")</script>'
    row = Row(Kind.LAYER, 1, evil, T0, T0 + 5, None, evil, evil, (evil,))
    page = as_html(Waterfall(evil, evil, ((evil, evil),), (*rows(), row)))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 7
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page
    assert "@media print" in page
    assert "prefers-color-scheme: dark" in page


async def test_the_command_prints_writes_and_tells_programs(tmp_path: Path) -> None:
    async with eventful(tmp_path) as (world, client):

        async def command(*arguments: str) -> Result:
            return await asyncio.to_thread(
                run, "trace", *arguments, "--target", world.running.target
            )

        assert "4. gpt-4o" in (await command(REQUEST_ID)).output
        told = data(await command(REQUEST_ID, "--json"))
        assert told["requestId"] == REQUEST_ID
        assert "4. gpt-4o" in (await command(told["traceId"])).output
        page = tmp_path / "t.html"
        written = await command(REQUEST_ID, "--html", str(page))
        assert written.exit_code == 0
        assert "qwen3-coder rejected" in page.read_text()
        unknown = await command("nobody")
        assert unknown.exit_code == 1
        assert "TRACE_UNKNOWN" in unknown.stderr
        assert (await command(REQUEST_ID, "--json", "--html", str(page))).exit_code == 2
        await client.complete("Parse this.", request_id="straight")
        straight = await command("straight")
        assert straight.exit_code == 0
        assert "1. gpt-4o-mini" in straight.output or "1. deepseek-chat" in straight.output


async def test_an_agent_sees_its_own_and_of_others_not_even_that_they_are(tmp_path: Path) -> None:
    async with eventful(tmp_path) as (world, _):
        watchers: Any = world.running.engine.observer
        told = [each.__self__ for each in watchers._facts]
        [journeys] = [each for each in told if isinstance(each, Journeys)]
        [traces] = [each for each in journeys._readers if isinstance(each, TraceKeeper)]
        request = wire.GetTraceRequest(request_id=REQUEST_ID)
        operator = Identity("ops", Rank.OPERATOR, Agent("ops"))
        assert (await serve(traces, request, operator)).request_id == REQUEST_ID
        nobody = Identity("", Rank.AGENT, Agent(""))
        assert (await serve(traces, request, nobody)).request_id == REQUEST_ID
        for other in ("eve", "ops"):
            with pytest.raises(RefusedError) as caught:
                await serve(traces, request, Identity(other, Rank.AGENT, Agent(other)))
            assert caught.value.refusal == UNKNOWN
        for request in (wire.GetTraceRequest(), wire.GetTraceRequest(request_id="")):
            with pytest.raises(RefusedError) as caught:
                await serve(traces, request, operator)
            assert caught.value.refusal.violations
