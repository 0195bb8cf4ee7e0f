"""Every gate fails what it is for, passes what it is not for, and quotes nothing (R21)."""

import time

import pytest

from escalade_server.checks.gates import SCHEMA_BYTES_MAX, AnswerGates, pattern_error
from escalade_server.core.gates import Demands, Gate, GateFailure
from escalade_server.core.task import (
    FinishReason,
    FormatKind,
    Part,
    Request,
    ResponseFormat,
    Task,
    Text,
    Tool,
    ToolCall,
)
from escalade_server.core.trace import Answer

SCHEMA = '{"type": "object", "required": ["sum"], "properties": {"sum": {"type": "integer"}}}'
LOOKUP = Tool("lookup", "", "{}")
GATES = AnswerGates()


def request(kind: FormatKind = FormatKind.TEXT, schema: str = SCHEMA) -> Request:
    wanted = ResponseFormat(kind, "sum", schema if kind is FormatKind.JSON_SCHEMA else "")
    return Request("r", Task(), (), tools=(LOOKUP,), response_format=wanted)


def answer(*parts: Part | str, finish: FinishReason = FinishReason.STOP) -> Answer:
    return Answer(tuple(Text(p) if isinstance(p, str) else p for p in parts), finish)


def call(arguments: str, name: str = "lookup") -> ToolCall:
    return ToolCall("c1", name, arguments)


TEXT, JSON, OBEY = FormatKind.TEXT, FormatKind.JSON, FormatKind.JSON_SCHEMA
CUT, CALLS = FinishReason.LENGTH, FinishReason.TOOL_CALLS
SHORT = Demands(frozenset({Gate.TOO_SHORT}), shortest_characters=5)
PATTERN = Demands(frozenset({Gate.PATTERN}), patterns=(r"\bDONE\b", "^#"))
WORDS = Demands(frozenset({Gate.PATTERN}), literals=("alpha", "beta.*"))

FAILS = [
    (Gate.TRUNCATED, TEXT, answer("half", finish=CUT), "was cut by the model's limit"),
    (Gate.REFUSAL, TEXT, answer("no", finish=FinishReason.REFUSAL), "was a refusal"),
    (Gate.REFUSAL, TEXT, answer("", finish=FinishReason.CONTENT_FILTER), "was a content_filter"),
    (Gate.INVALID_JSON, JSON, answer("Sure! {}"), "was no JSON"),
    (Gate.INVALID_JSON, JSON, answer('{"a": NaN}'), "was no JSON"),
    (Gate.INVALID_JSON, JSON, answer("\ud800"), "was no JSON"),
    (Gate.INVALID_JSON, JSON, answer("[" * 10_000), "was no JSON"),
    (Gate.JSON_SCHEMA, OBEY, answer("{"), "was no JSON"),
    (Gate.JSON_SCHEMA, OBEY, answer('{"secret": 1}'), "broke the schema's required"),
    (Gate.JSON_SCHEMA, OBEY, answer('{"sum": "secret"}'), "broke the schema's type"),
    (Gate.TOOL_CALL, TEXT, answer(call("{")), "called lookup with arguments that are no JSON"),
    (Gate.TOOL_CALL, TEXT, answer(call("[1]")), "called lookup with arguments that are no JSON"),
    (Gate.TOOL_CALL, TEXT, answer(call("{}", "secret")), "called a tool that was not offered"),
]
PASSES = [
    (Gate.TRUNCATED, TEXT, answer("whole")),
    (Gate.REFUSAL, TEXT, answer("I cannot say", finish=CUT)),
    (Gate.INVALID_JSON, TEXT, answer("prose is what was asked for")),
    (Gate.INVALID_JSON, JSON, answer('{"sum"', ": 3}")),
    (Gate.INVALID_JSON, JSON, answer(call("{}"), finish=CALLS)),
    (Gate.JSON_SCHEMA, OBEY, answer(' {"sum": 3}\n')),
    (Gate.JSON_SCHEMA, JSON, answer("no schema was given")),
    (Gate.JSON_SCHEMA, OBEY, answer(call("{}"), finish=CALLS)),
    (Gate.TOOL_CALL, TEXT, answer(call('{"q": 1}'))),
    (Gate.TOOL_CALL, TEXT, answer(call(""))),
]


@pytest.mark.parametrize(("gate", "kind", "given", "says"), FAILS)
def test_a_gate_fails_what_it_is_for_and_quotes_nothing(
    gate: Gate, kind: FormatKind, given: Answer, says: str
) -> None:
    failed = GATES.check(request(kind), given, Demands(frozenset({gate})))
    assert failed is not None
    assert failed.gate is gate
    assert failed.detail.startswith(says)
    assert "secret" not in failed.detail


@pytest.mark.parametrize(("gate", "kind", "given"), PASSES)
def test_a_gate_passes_what_it_is_not_for(gate: Gate, kind: FormatKind, given: Answer) -> None:
    assert GATES.check(request(kind), given, Demands(frozenset({gate}))) is None


@pytest.mark.parametrize(
    ("demands", "text", "says"),
    [
        (SHORT, "  four  ", "had 4 of at least 5 characters"),
        (PATTERN, "# all DONEs", "lacked a pattern of the strategy"),
        (PATTERN, "DONE", "lacked a pattern of the strategy"),
        (WORDS, "alpha and beta", "lacked 1 of 2 words asked for"),
    ],
)
def test_gates_of_text_that_have_a_measure(demands: Demands, text: str, says: str) -> None:
    assert GATES.check(request(), answer(text), demands) == GateFailure(demands.held_by[0], says)
    assert GATES.check(request(), answer(call("{}"), finish=CALLS), demands) is None


def test_what_has_its_measure_passes() -> None:
    both = SHORT | PATTERN | WORDS
    assert GATES.check(request(), answer("# alpha beta.* DONE"), both) is None
    assert both.held_by == (Gate.TOO_SHORT, Gate.PATTERN)


def test_the_first_gate_in_order_is_told() -> None:
    demands = Demands(frozenset({Gate.PATTERN, Gate.TRUNCATED, Gate.EMPTY}), patterns=("x",))
    failed = GATES.check(request(), answer("", finish=CUT), demands)
    assert failed is not None
    assert failed.gate is Gate.TRUNCATED
    assert Gate.EMPTY not in demands.held_by


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("{", "is no JSON schema"),
        ("3", "is no JSON schema"),
        ('{"type": "strin"}', "is no valid JSON schema"),
        ('{"$ref": "http://127.0.0.1:1/schema"}', "is no valid JSON schema"),
        ('{"pattern": "(?=lookahead)"}', "is no valid JSON schema"),
        (f'{{"title": "{"x" * SCHEMA_BYTES_MAX}"}}', "is larger than 256 KiB"),
        ('{"type": "array", "items": ' * 2_000 + "{}" + "}" * 2_000, "is no"),
    ],
)
def test_a_schema_that_cannot_be_checked_against_is_refused(schema: str, says: str) -> None:
    assert GATES.refusal(request(OBEY, schema)).startswith(says)


def test_schemas_that_can_be_used_and_requests_without_one_are_not_refused() -> None:
    for usable in (request(), request(JSON), request(OBEY), request(OBEY, "true")):
        assert GATES.refusal(usable) == ""


def test_a_schema_that_was_let_in_broken_holds_up_nothing() -> None:
    broken = request(OBEY, '{"type": "strin"}')
    assert GATES.check(broken, answer("{}"), Demands(frozenset({Gate.JSON_SCHEMA}))) is None


def test_patterns_run_in_linear_time() -> None:
    evil, text = r"^(a+)+$", "a" * 5_000 + "b"
    begun = time.process_time()
    failed = GATES.check(request(), answer(text), Demands(frozenset({Gate.PATTERN}), 0, (evil,)))
    assert failed is not None
    assert time.process_time() - begun < 5, "backtracking would take longer than the universe has"


def test_a_pattern_that_needs_backtracking_is_refused() -> None:
    assert pattern_error(r"(a)\1") == "not a regular expression of linear time"
    assert pattern_error("^ok$") == ""
