"""From the core to the wire: every member of every enum, and every field that matters."""

from dataclasses import replace
from enum import Enum

import pytest

from escalade.v1 import completion_pb2 as c
from escalade.v1 import error_pb2
from escalade.v1 import escalation_pb2 as e
from escalade_server.api import convert_out as out
from escalade_server.core.catalog import Billing, Period, Unit
from escalade_server.core.facts import (
    Alert,
    AlertKind,
    EscalationKind,
    EscalationReason,
    Fact,
    Finished,
    Outcome,
    Selected,
    Waiting,
)
from escalade_server.core.failure import NEVER_MS, FailureClass
from escalade_server.core.gates import Gate
from escalade_server.core.standing import Cause, CircuitState, Verdict, VerdictClass
from escalade_server.core.task import (
    Basis,
    FinishReason,
    Image,
    ProviderState,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from escalade_server.core.trace import Answer, AttemptStatus, Clamp, Skip
from tests.api.world import ASSESSED, MODELS, NOW_MS, finished, record, report, selected

TABLES: list[tuple[type[Enum], object]] = [
    (FailureClass, out.FAILURES),
    (EscalationReason, out.ESCALATION_REASONS),
    (EscalationKind, out.ESCALATION_KINDS),
    (AlertKind, out.ALERTS),
    (AttemptStatus, out.ATTEMPTS),
    (Clamp, out.CLAMPS),
    (FinishReason, out.FINISHES),
    (Billing, out.BILLINGS),
    (CircuitState, out.CIRCUITS),
    (VerdictClass, out.VERDICTS),
    (Basis, out.BASES),
    (Unit, out.UNITS),
    (Gate, out.GATES),
]


@pytest.mark.parametrize(("members", "table"), TABLES, ids=[m.__name__ for m, _ in TABLES])
def test_every_member_has_its_value(members: type[Enum], table: dict[Enum, int]) -> None:
    assert set(table) == set(members)
    assert [m for m in members if table[m] == 0] == ([Basis.NONE] if members is Basis else [])


def event(sequence: int, fact: Fact | Outcome, *, whole: bool) -> e.Event:
    wire = e.Event()
    out.put_event(wire, sequence, fact, whole=whole)
    return wire


def test_an_assessment_is_told_in_points() -> None:
    told = event(1, ASSESSED, whole=False).assessed

    assert (told.score, told.parts.depth, told.threshold) == (4.9, 4.9, 8.0)
    assert (told.task_type, told.type_estimated, told.tokens_estimated) == ("debug", True, False)
    assert told.estimate_reason == "type: the last message says 'why'"


def test_a_selection_names_model_grant_and_skips() -> None:
    told = event(2, selected(), whole=False).selected

    assert told.target == e.ModelRef(
        layer="free", provider="mini-vendor", account="default", model="mini"
    )
    assert (told.wire_model, told.max_output_tokens) == ("mini-wire", 4_096)
    assert told.expires.ToMilliseconds() == NOW_MS + 600_000
    assert told.skips[0].verdict == e.VERDICT_CLASS_RATE


def test_a_report_carries_attempts_money_and_story() -> None:
    told = event(3, finished("x"), whole=False).finished.report
    attempt = told.attempts[0]

    assert (attempt.attempt, attempt.http_status, attempt.basis) == (1, 200, c.BASIS_REPORTED)
    assert attempt.first_token.ToMilliseconds() == NOW_MS + 10
    assert (told.cost.list_nano_usd, told.cost.charged_nano_usd) == (20_000, 0)
    assert told.baseline_nano_usd == 400_000
    assert told.basis == c.BASIS_REPORTED
    assert told.story.startswith("Score 4.9 →")
    assert not told.HasField("earliest")
    assert not told.usage.HasField("cached_input_tokens")


def test_never_and_unknown_instants_are_absent() -> None:
    assert out.time_to_proto(None) is out.time_to_proto(0) is out.time_to_proto(NEVER_MS) is None


def test_a_whole_answer_keeps_every_kind_of_part() -> None:
    parts = (
        Reasoning("hm"),
        Text("hi \ud83d\ude00"),
        ToolCall("c1", "look", "{}"),
        ProviderState("openai", "mini", b"s"),
        Image("image/png", b"png"),
        ToolResult("c1", "found", is_error=True),
    )
    ending = Finished(report(), Answer(parts, FinishReason.REFUSAL, "policy"))
    told = event(1, ending, whole=True).finished

    assert [part.WhichOneof("kind") for part in told.answer.parts] == [
        "reasoning", "text", "tool_call", "provider_state", "image", "tool_result",
    ]  # fmt: skip
    assert told.answer.parts[1].text == "hi \U0001f600"
    assert (told.finish_reason, told.finish_detail) == (c.FINISH_REASON_REFUSAL, "policy")
    assert told.quality == e.QUALITY_MET
    unmet = event(1, ending._replace(unmet=Gate.PATTERN), whole=True).finished
    assert unmet.quality == e.QUALITY_UNMET


@pytest.mark.parametrize("gate", Gate)
def test_a_gate_that_failed_is_named_and_classed(gate: Gate) -> None:
    wire = e.Attempt()
    rejected, cls = AttemptStatus.REJECTED, FailureClass.PROTOCOL
    made = replace(record(), status=rejected, failure=cls, gate=gate)
    out.put_attempt(wire, made)

    assert wire.gate == out.GATES[gate] != c.GATE_UNSPECIFIED
    assert wire.failure_class == error_pb2.FAILURE_CLASS_GATE


def test_the_gates_that_hold_deltas_are_told() -> None:
    held = (Gate.INVALID_JSON, Gate.PATTERN)
    told = event(1, Selected(1, MODELS[0], "r", 0, 1, 1, (), held), whole=True).selected

    assert list(told.held_by) == [c.GATE_INVALID_JSON, c.GATE_PATTERN_MISSING]


def test_a_layer_passed_over_has_no_model() -> None:
    verdict = Verdict(VerdictClass.TRIGGER_NOT_MET, Cause.TRIGGER_NOT_MET, "line 9")
    wire = e.Report()
    out.put_report(wire, report(skips=(Skip("plan", None, verdict),)))
    told = wire.skips[0]

    assert told.target == e.ModelRef(layer="plan")
    assert (told.verdict, told.reason) == (e.VERDICT_CLASS_POLICY, "trigger_not_met")


def test_waiting_and_alerts_carry_their_words() -> None:
    waiting = Waiting(VerdictClass.RATE, NOW_MS, "50 a day", "mini is used up", 3)
    alert = Alert(AlertKind.MODEL_GONE, "mini is gone", MODELS[0])
    told_wait = event(1, waiting, whole=False).waiting
    told_alert = event(2, alert, whole=False).alert

    assert (told_wait.rule, told_wait.detail, told_wait.position) == (
        "50 a day", "mini is used up", 3,
    )  # fmt: skip
    assert told_alert.kind == e.ALERT_KIND_MODEL_GONE
    assert told_alert.target.model == "mini"


def test_a_sliding_window_has_no_end() -> None:
    day = MODELS[0].counters[0]
    told = out.quota_to_proto(day, 50, 1, NOW_MS)

    assert day.period is Period.DAY
    assert (told.spent, told.held, told.limit, told.period) == (50, 1, 50, "day")
    assert told.resets.ToMilliseconds() == NOW_MS


def test_usage_says_what_was_reported() -> None:
    made = replace(report(), usage=Usage(10, 5, cached_tokens=4))
    wire = e.Report()
    out.put_report(wire, made)

    assert wire.usage.cached_input_tokens == 4
    assert not wire.usage.HasField("reasoning_tokens")
