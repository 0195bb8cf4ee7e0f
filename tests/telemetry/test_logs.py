"""The log: one line per escalation, without prompts; never blocks, never raises."""

import io
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import pytest

from escalade_server.core.facts import (
    Assessed,
    ErrorReason,
    Escalated,
    EscalationKind,
    EscalationReason,
    Fact,
    Failed,
    Finished,
    Retracted,
    Waiting,
)
from escalade_server.core.failure import NEVER_MS, FailureClass
from escalade_server.core.gates import Gate
from escalade_server.core.standing import VerdictClass
from escalade_server.core.task import Message, Request, Role, Task, Text, Usage
from escalade_server.core.trace import Answer, Assessment, AttemptStatus, Report
from escalade_server.core.tracing import TraceContext
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import LEVEL_OF, Format, Level, LogObserver, make_logger
from escalade_server.telemetry.mistakes import LoggedMistakes
from escalade_server.telemetry.observers import Observers
from escalade_server.telemetry.redact import Redactor
from escalade_server.telemetry.sink import LineSink
from tests.api.world import record
from tools import telemetry_pages as pages

SOURCES = Path(names.__file__).parents[1]
SECRET = "the prompt nobody may read"
REQUEST = Request(
    id="request-1",
    task=Task(type="debug"),
    messages=(Message(Role.USER, (Text(SECRET),)),),
    agent="agent-1",
)
ESCALATED = Escalated(
    "free", "paid", EscalationReason.RATE_LIMIT, "50 of 50 requests today", EscalationKind.FAILURE
)
ASSESSMENT = Assessment(
    score_micro=4_900_000,
    uncapped_micro=4_900_000,
    files_micro=0,
    depth_micro=4_900_000,
    context_micro=0,
    threshold_micro=8_000_000,
    stated=False,
    type="debug",
    estimated=(("type", f"the last message says {SECRET!r}"),),
    target_layer="free",
    start_layer="free",
)
REPORT = Report(
    request_id="request-1",
    assessment=ASSESSMENT,
    requested_model="",
    selected=None,
    answered=None,
    layer_path=("free", "paid"),
    attempts=(),
    skips=(),
    usage=Usage(10, 20),
    list_nanos=2_100_000,
    charged_nanos=0,
    baseline_model="",
    baseline_nanos=None,
    started_ms=1_000,
    ended_ms=2_200,
    story="a story",
)
FINISHED = Finished(REPORT, Answer((Text(SECRET),)))


class Log:
    """A log into memory."""

    def __init__(
        self, level: Level = "debug", form: Format = "json", secrets: Sequence[str] = ()
    ) -> None:
        self.stream = io.StringIO()
        self.sink = LineSink(self.stream)
        self.logger = make_logger(self.sink, self.stream, form, level, Redactor(secrets))

    def text(self) -> str:
        self.sink.close()
        return self.stream.getvalue()

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text().splitlines()]


def told(*facts: Fact, level: Level = "debug", log_escalations: bool = True) -> list[object]:
    log = Log(level)
    observer = LogObserver(log.logger, level, log_escalations=log_escalations)
    for fact in facts:
        observer.fact("t1", REQUEST, fact, 1_000)
    return [line["event"] for line in log.lines()]


def test_an_escalation_is_one_line_with_its_reason() -> None:
    log = Log()
    LogObserver(log.logger, "debug").fact("t1", REQUEST, ESCALATED, 1_000)
    (line,) = log.lines()
    assert list(line)[:3] == ["time", "level", "event"]
    line.pop("time")
    assert line == {
        "level": "info",
        "event": "task.escalated",
        "request_id": "request-1",
        "agent": "agent-1",
        "task_id": "t1",
        "trace_id": "t1",
        "from_layer": "free",
        "to_layer": "paid",
        "reason": "rate_limit",
        "kind": "failure",
        "detail": "50 of 50 requests today",
        "attempt": None,
    }


def test_an_answer_told_again_is_a_line_of_its_own_without_its_cost() -> None:
    """So that whoever adds up the log counts it once (R27)."""
    log = Log()
    observer = LogObserver(log.logger, "debug")
    report = replace(REPORT, charged_nanos=5)
    observer.ended("t1", REQUEST, FINISHED._replace(report=report, replayed=True))
    observer.ended("t1", REQUEST, Failed(ErrorReason.ALREADY_ANSWERED, "was answered", report))
    replayed, refused = log.lines()
    assert replayed["event"] == names.TASK_REPLAYED
    assert "charged_nano_usd" not in replayed
    assert (refused["event"], refused["charged_nano_usd"]) == (names.TASK_FAILED, 0)


def test_a_task_goes_by_the_trace_of_its_caller() -> None:
    log = Log()
    traced = replace(REQUEST, trace=TraceContext("a" * 32, "b" * 16, sampled=True))
    LogObserver(log.logger, "debug").fact("t1", traced, ESCALATED, 1_000)
    (line,) = log.lines()
    assert (line["task_id"], line["trace_id"]) == ("t1", "a" * 32)


def test_a_task_that_goes_straight_is_a_line_for_people_and_for_debugging_only() -> None:
    straight = FINISHED._replace(
        report=replace(REPORT, layer_path=("free",), attempts=(record(1),))
    )
    again = straight._replace(report=replace(straight.report, attempts=(record(1), record(2))))
    for every, level, told in (
        (True, "info", ["info", "info"]),
        (False, "info", ["info"]),
        (False, "debug", ["debug", "info"]),
    ):
        log = Log()
        observer = LogObserver(log.logger, cast("Level", level), every_task=every)
        observer.ended("t1", REQUEST, straight)
        observer.ended("t2", REQUEST, again)
        assert [line["level"] for line in log.lines()] == told


def test_log_escalation_events_drops_the_line_and_nothing_else() -> None:
    retracted = Retracted(1, FailureClass.PROTOCOL, "cut")
    assert told(ESCALATED, retracted, log_escalations=False) == [names.TASK_RETRACTED]


def test_levels_are_kept() -> None:
    facts: tuple[Fact, ...] = (
        Assessed(ASSESSMENT),
        ESCALATED,
        Retracted(1, FailureClass.PROTOCOL, "cut"),
    )
    every = [names.TASK_ASSESSED, names.TASK_ESCALATED, names.TASK_RETRACTED]
    assert told(*facts, level="debug") == every
    assert told(*facts, level="info") == every[1:]
    assert told(*facts, level="warning") == every[2:]
    assert told(*facts, level="error") == []


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_prompt_and_no_answer_gets_in(form: Format) -> None:
    log = Log(form=form)
    observer = LogObserver(log.logger, "debug")
    observer.fact("t1", REQUEST, Assessed(ASSESSMENT), 1_000)
    observer.ended("t1", REQUEST, FINISHED)
    text = log.text()
    assert "task.finished" in text
    assert "request-1" in text
    assert SECRET not in text


def test_the_end_of_a_task_has_its_figures() -> None:
    log = Log()
    observer = LogObserver(log.logger, "info")
    observer.ended("t1", REQUEST, FINISHED)
    for reason in (ErrorReason.RATE_LIMITED, ErrorReason.CANCELLED, ErrorReason.BUG):
        observer.ended("t1", REQUEST, Failed(reason, "why", REPORT))
    finished, *failed = log.lines()
    assert finished["duration_ms"] == 1_200
    assert finished["list_nano_usd"] == 2_100_000
    assert finished["layer"] == "paid"
    assert {line["task_id"] for line in (finished, *failed)} == {"t1"}
    assert [line["level"] for line in failed] == ["warning", "info", "error"]
    assert [line["reason"] for line in failed] == ["rate_limited", "cancelled", "bug"]


def test_r21_a_rejected_answer_is_a_line_with_its_gate_and_without_its_words() -> None:
    log = Log()
    poor = replace(
        record(2), status=AttemptStatus.REJECTED, gate=Gate.INVALID_JSON, detail="was no JSON"
    )
    ending = FINISHED._replace(report=replace(REPORT, attempts=(poor,)), unmet=Gate.INVALID_JSON)
    LogObserver(log.logger, "info").ended("t1", REQUEST, ending)
    rejected, finished = log.lines()
    assert rejected["event"] == names.TASK_REJECTED_ANSWER
    assert (rejected["attempt"], rejected["gate"]) == (2, "invalid_json")
    assert rejected["detail"] == "was no JSON"
    assert finished["unmet"] == "invalid_json"


def test_on_a_terminal_a_line_is_for_people() -> None:
    log = Log(form="text")
    observer = LogObserver(log.logger, "info")
    observer.ended("t1", REQUEST, FINISHED)
    waits = Waiting(VerdictClass.RATE, 1_790_000_000_000, "50/day")
    observer.fact("t1", REQUEST, waits, 1_000)
    log.logger.info(names.MODEL_SET_ASIDE, subject="openai", until_ms=NEVER_MS)
    finished, waiting, aside = [line.rstrip() for line in log.text().splitlines()]
    at = r"\d\d:\d\d:\d\d\.\d{3} \[info     \] "
    assert re.fullmatch(
        at + "task.finished        request_id=request-1 agent=agent-1 type=debug layer=paid"
        r" attempts=0 layers=2 input_tokens=10 output_tokens=20 charged=\$0.00 list=\$0.0021"
        " duration_ms=1200",
        finished,
    ), finished
    assert "reason=rate rule=50/day earliest=2026-09-21T14:13:20Z position=" in waiting
    assert "subject=openai until='a person acts'" in aside
    log = Log()
    log.logger.info(names.MODEL_SET_ASIDE, subject="openai", until_ms=NEVER_MS)
    [line] = log.lines()
    assert line["until_ms"] is None
    assert "t1" not in finished + waiting


@pytest.mark.fault("C8")
def test_a_caller_cannot_forge_a_line() -> None:
    forger = replace(REQUEST, id='x"}\n{"event":"task.finished"}\x1b[2J')
    forms: tuple[Format, ...] = ("json", "text")
    for form in forms:
        log = Log(form=form)
        LogObserver(log.logger, "debug").fact("t1", forger, ESCALATED, 1_000)
        text = log.text()
        assert len(text.splitlines()) == 1
        assert "\x1b[2J" not in text


def test_a_fact_that_cannot_be_told_is_no_fault_of_the_task() -> None:
    log = Log()
    observer = LogObserver(log.logger, "debug")
    observer.ended("t1", REQUEST, Finished(None, Answer()))  # type: ignore[arg-type]  # broken on purpose
    observer.fact("t1", REQUEST, Assessed(None), 1_000)  # type: ignore[arg-type]  # as above
    assert [line["event"] for line in log.lines()] == [names.OBSERVER_FAILED] * 2


def test_a_mistake_is_logged_without_its_words() -> None:
    log = Log()
    mistakes = LoggedMistakes(log.logger, lambda: "id-1")
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError(SECRET)
    assert mistakes(caught.value) == "id-1"
    (line,) = log.lines()
    assert line["event"] == names.MISTAKE
    assert line["mistake_id"] == "id-1"
    assert line["error"] == "RuntimeError"
    assert "test_a_mistake_is_logged_without_its_words" in str(line["where"])
    assert SECRET not in log.text()


def test_every_observer_is_told() -> None:
    first, second = Log(), Log()
    observers = Observers([LogObserver(log.logger, "debug") for log in (first, second)])
    observers.fact("t1", REQUEST, ESCALATED, 1_000)
    observers.ended("t1", REQUEST, FINISHED)
    for log in (first, second):
        assert [line["event"] for line in log.lines()] == [
            names.TASK_ESCALATED,
            names.TASK_FINISHED,
        ]


class Stalled(io.StringIO):
    """A stream whose reader has stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = threading.Event()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.reading.wait(10)
        return super().write(text)


def test_a_reader_that_stalls_stalls_nobody() -> None:
    stream = Stalled()
    sink = LineSink(stream, lines_max=3)
    sink.put("first")
    assert stream.entered.wait(5)
    for number in range(5):
        sink.put(f"line {number}")
    assert sink.lost == 2
    stream.reading.set()
    sink.close()
    assert stream.getvalue().splitlines() == ["first", "line 0", "line 1", "line 2"]


def test_a_stream_that_is_gone_is_no_error() -> None:
    stream = io.StringIO()
    sink = LineSink(stream)
    stream.close()
    sink.put("nobody reads this")
    sink.close()
    assert sink.lost == 1


def test_every_fact_has_its_loudness() -> None:
    assert set(LEVEL_OF) == set(get_args(Fact))


def test_every_name_has_its_meaning_and_is_written_somewhere() -> None:
    stated = {
        key: value
        for key, value in vars(names).items()
        if isinstance(value, str) and re.fullmatch("[A-Z][A-Z_]+", key)
    }
    assert set(names.EVENTS) == set(stated.values())
    sources = "".join(path.read_text() for path in SOURCES.rglob("*.py"))
    assert not [key for key in stated if f"names.{key}" not in sources]


def test_the_pages_of_events_and_metrics_are_fresh() -> None:
    for path, text in pages.pages().items():
        assert path.read_text() == text, f"make docs: {path.name}"
