"""From the wire to the core: what is taken, what is refused, and by which name."""

import math
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from escalade.v1 import completion_pb2 as c
from escalade.v1 import escalation_pb2 as e
from escalade.v1.router_service_pb2 import CompleteRequest
from escalade_server.api.convert_in import Asked, request_from_proto
from escalade_server.api.findings import json_depth
from escalade_server.api.status import Refusal, RefusedError
from escalade_server.core.gates import Demands, Gate, OnUnmet, Wish
from escalade_server.core.session import Evidence, EvidenceKind
from escalade_server.core.task import (
    Constraints,
    DataDemand,
    Delivery,
    Effort,
    FormatKind,
    Image,
    OnInterruption,
    ProviderState,
    Reasoning,
    Request,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolMode,
    ToolResult,
)
from tests.api.world import CATALOG, NOW_MS, ask


def convert(wire: CompleteRequest, left_ms: int | None = None) -> Asked:
    return request_from_proto(wire, CATALOG, request_id="made", now_ms=NOW_MS, left_ms=left_ms)


def taken(wire: CompleteRequest) -> Request:
    return convert(wire).request


def refused(wire: CompleteRequest) -> Refusal:
    with pytest.raises(RefusedError) as caught:
        convert(wire)
    return caught.value.refusal


def say(role: c.Role.ValueType, *parts: c.Part) -> c.Message:
    return c.Message(role=role, parts=parts)


def test_absent_is_not_zero_and_unspecified_is_the_default() -> None:
    request = taken(ask("Why?"))

    assert request.id == "made"
    assert request.task.files is request.task.tokens is request.task.complexity_micro is None
    assert request.sampling == Sampling()
    assert request.constraints == Constraints()
    assert request.effort is None
    assert request.output_tokens_max is None
    assert request.delivery is Delivery.STREAM
    assert request.on_interruption is OnInterruption.RESTART
    assert request.response_format.kind is FormatKind.TEXT
    assert request.tool_choice.mode is ToolMode.AUTO
    assert request.deadline_ms == NOW_MS + CATALOG.rules.work_ms


LIMITS = e.Constraints(
    lowest_layer="free", highest_layer="plan", allowed_models=["mini-vendor/mini"],
    denied_models=["glm"], spend_limit_nano_usd=0, free_only=True, may_downgrade=False,
    may_wait=False, timeout=Duration(seconds=9), consented_layers=["plan", "*"],
)  # fmt: skip


def test_everything_that_is_built_is_carried() -> None:
    wire = CompleteRequest(
        task=e.Task(
            type="debug", files=["a.py", "b.py", "a.py"], tokens=7, complexity=8.5,
            capabilities=["parsing"], labels={"team": "core"}, data_demand=e.DATA_DEMAND_PRIVATE,
        ),
        messages=[
            say(c.ROLE_SYSTEM, c.Part(text="Be brief.", cache_hint=True)),
            say(c.ROLE_USER, c.Part(text="?"), c.Part(image=c.Image(
                media_type="image/png", data=b"png"))),
            say(
                c.ROLE_ASSISTANT,
                c.Part(reasoning=c.Reasoning(text="hm")),
                c.Part(provider_state=c.ProviderState(dialect="openai", model="mini", data=b"s")),
                c.Part(tool_call=c.ToolCall(id="c1", name="look", arguments_json="{not json")),
            ),
            say(c.ROLE_TOOL, c.Part(tool_result=c.ToolResult(
                tool_call_id="c1", text="found", is_error=True))),
        ],
        tools=[c.Tool(name="look", description="Looks.", parameters_json_schema='{"a":1}')],
        tool_choice=c.ToolChoice(tool_name="look"),
        response_format=c.ResponseFormat(json_schema=c.JsonSchemaFormat(
            name="shape", schema_json='{"type":"object"}')),
        sampling=c.Sampling(temperature=0.0, top_p=0.5, seed=0, frequency_penalty=-1,
                            presence_penalty=1, stop=["END"]),
        reasoning_effort=c.REASONING_EFFORT_HIGH,
        max_output_tokens=100,
        constraints=LIMITS,
        on_interruption=c.ON_INTERRUPTION_FAIL,
        delivery=c.DELIVERY_WHOLE,
        flush_interval=Duration(nanos=40_000_000),
        request_id="r-1",
    )  # fmt: skip
    asked = convert(wire)
    request = asked.request

    assert asked.flush_ms == 40
    assert request.id == "r-1"
    assert (request.task.type, request.task.files, request.task.tokens) == ("debug", 2, 7)
    assert request.task.complexity_micro == 8_500_000
    assert request.task.capabilities == ("parsing",)
    assert request.task.labels == (("team", "core"),)
    assert request.task.data_demand is DataDemand.PRIVATE
    assert [m.role for m in request.messages] == [
        Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL,
    ]  # fmt: skip
    assert [p for m in request.messages for p in m.parts] == [
        Text("Be brief.", cache_hint=True),
        Text("?"),
        Image("image/png", b"png"),
        Reasoning("hm"),
        ProviderState("openai", "mini", b"s"),
        ToolCall("c1", "look", "{not json"),
        ToolResult("c1", "found", is_error=True),
    ]
    assert request.tools[0].parameters_json == '{"a":1}'
    assert (request.tool_choice.mode, request.tool_choice.name) == (ToolMode.NAMED, "look")
    assert request.response_format.schema_json == '{"type":"object"}'
    assert request.sampling == Sampling(0.0, 0.5, 0, ("END",), -1, 1)
    assert request.effort is Effort.HIGH
    assert request.output_tokens_max == 100
    assert request.constraints == Constraints(
        "free", "plan", ("mini-vendor/mini",), ("glm",), 0, True, False, False, None,  # noqa: FBT003 - all fields in order
        ("plan", "*"),
    )  # fmt: skip
    assert request.on_interruption is OnInterruption.FAIL
    assert request.delivery is Delivery.WHOLE
    assert request.deadline_ms == NOW_MS + 9_000


def test_the_deadline_is_the_nearer_of_work_time_and_what_the_caller_leaves() -> None:
    limited = ask(constraints=e.Constraints(timeout=Duration(seconds=2)))

    assert convert(limited, 60_000).request.deadline_ms == NOW_MS + 2_000
    assert convert(limited, 1_000).request.deadline_ms == NOW_MS + 1_000
    assert convert(ask(), 10_000_000).request.deadline_ms == NOW_MS + CATALOG.rules.work_ms


def user(part: c.Part) -> CompleteRequest:
    return CompleteRequest(messages=[say(c.ROLE_USER, part)])


def task(**fields: Any) -> CompleteRequest:
    return ask(task=e.Task(**fields))


def limits(**fields: Any) -> CompleteRequest:
    return ask(constraints=e.Constraints(**fields))


def tool(**fields: Any) -> CompleteRequest:
    return ask(tools=[c.Tool(**({"name": "t", "parameters_json_schema": "{}"} | fields))])


def schema(text: str) -> CompleteRequest:
    return ask(response_format=c.ResponseFormat(json_schema=c.JsonSchemaFormat(schema_json=text)))


CUT = e.Evidence(kind=e.EVIDENCE_KIND_OUTPUT_CUT)
RESULT = c.Part(tool_result=c.ToolResult(tool_call_id="c9", text="?"))
WRONG = [
    (CompleteRequest(), "messages"),
    (CompleteRequest(messages=[c.Message(role=c.ROLE_USER)]), "messages[0].parts"),
    (CompleteRequest(messages=[say(0, c.Part(text="x"))]), "messages[0].role"),  # type: ignore[arg-type]
    (user(c.Part(text="")), "messages[0].parts"),
    (user(c.Part()), "messages[0].parts[0]"),
    (user(RESULT), "messages[0].parts[0]"),
    (
        CompleteRequest(messages=[say(c.ROLE_TOOL, RESULT)]),
        "messages[0].parts[0].tool_result.tool_call_id",
    ),
    (user(c.Part(image=c.Image(media_type="image/svg+xml", data=b"x"))),
     "messages[0].parts[0].image.media_type"),
    (user(c.Part(image=c.Image(media_type="image/png"))), "messages[0].parts[0].image.data"),
    (user(c.Part(image=c.Image(media_type="image/png", data=b"x" * 5_242_881))),
     "messages[0].parts[0].image.data"),
    (task(file_count=-1), "task.file_count"),
    (task(file_count=1, files=["a"]), "task.file_count"),
    (task(tokens=-1), "task.tokens"),
    (task(complexity=10.1), "task.complexity"),
    (task(complexity=math.nan), "task.complexity"),
    (task(complexity=math.inf), "task.complexity"),
    (task(type="a\r\nx-admin: 1"), "task.type"),
    (task(capabilities=[""]), "task.capabilities[0]"),
    (task(labels={"a\nb": "x"}), "task.labels"),
    (task(labels={"a": "x\x00"}), "task.labels[a]"),
    (task(session_id="a b"), "task.session_id"),
    (task(session_id="s" * 129), "task.session_id"),
    (task(evidence=[CUT]), "task.evidence"),
    (task(session_id="s", evidence=[CUT] * 17), "task.evidence"),
    (task(session_id="s", evidence=[e.Evidence(signal_id="x")]), "task.evidence[0].kind"),
    (task(session_id="s", evidence=[e.Evidence(kind=1, signal_id="x" * 257)]),  # type: ignore[arg-type]
     "task.evidence[0].signal_id"),
    (limits(lowest_layer="plan", highest_layer="free"), "constraints.lowest_layer"),
    (limits(spend_limit_nano_usd=-1), "constraints.spend_limit_nano_usd"),
    (limits(timeout=Duration()), "constraints.timeout"),
    (limits(timeout=Duration(seconds=-1)), "constraints.timeout"),
    (limits(allowed_models=["x\r\ny"]), "constraints.allowed_models[0]"),
    (ask(max_output_tokens=0), "max_output_tokens"),
    (ask(max_output_tokens=-1), "max_output_tokens"),
    (ask(max_output_tokens=2**31), "max_output_tokens"),
    (ask(request_id="é"), "request_id"),
    (ask(request_id="x" * 129), "request_id"),
    (ask(flush_interval=Duration(seconds=11)), "flush_interval"),
    (ask(sampling=c.Sampling(temperature=-0.1)), "sampling.temperature"),
    (ask(sampling=c.Sampling(top_p=1.5)), "sampling.top_p"),
    (ask(sampling=c.Sampling(presence_penalty=math.nan)), "sampling.presence_penalty"),
    (ask(sampling=c.Sampling(stop=["a"] * 5)), "sampling.stop"),
    (ask(sampling=c.Sampling(stop=[""])), "sampling.stop[0]"),
    (tool(name="a b"), "tools[0].name"),
    (tool(parameters_json_schema="[]"), "tools[0].parameters_json_schema"),
    (tool(parameters_json_schema="{"), "tools[0].parameters_json_schema"),
    (tool(parameters_json_schema='{"a":' * 33 + "1" + "}" * 33),
     "tools[0].parameters_json_schema"),
    (tool(parameters_json_schema="x" * 1_048_577), "tools"),
    (ask(tools=[c.Tool(name="t"), c.Tool(name="t")]), "tools[1].name"),
    (ask(tool_choice=c.ToolChoice(tool_name="t")), "tool_choice.tool_name"),
    (ask(tool_choice=c.ToolChoice(mode=c.TOOL_MODE_REQUIRED)), "tool_choice.mode"),
    (schema(""), "response_format.json_schema.schema_json"),
    (schema("[" * 100_000), "response_format.json_schema.schema_json"),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "field"), WRONG, ids=[f for _, f in WRONG])
def test_a_broken_rule_is_named_by_its_field(wire: CompleteRequest, field: str) -> None:
    refusal = refused(wire)

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [path for path, _ in refusal.violations] == [field]


UNKNOWN = [
    (limits(lowest_layer="gold"), "constraints.lowest_layer"),
    (limits(highest_layer="gold"), "constraints.highest_layer"),
    (limits(allowed_models=["mini", "gpt-9"]), "constraints.allowed_models[1]"),
    (limits(denied_models=["gpt-9"]), "constraints.denied_models[0]"),
    (limits(consented_layers=["gold"]), "constraints.consented_layers[0]"),
]


@pytest.mark.parametrize(("wire", "field"), UNKNOWN, ids=[f for _, f in UNKNOWN])
def test_a_name_that_the_strategy_lacks_is_not_found(wire: CompleteRequest, field: str) -> None:
    """Faults C9; a typo in a denial is never without effect in silence."""
    refusal = refused(wire)

    assert refusal.code is grpc.StatusCode.NOT_FOUND
    assert [path for path, _ in refusal.violations] == [field]


def test_r31_a_plan_is_asked_of_route() -> None:
    refusal = refused(task(dry_run=True))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [path for path, _ in refusal.violations] == ["task.dry_run"]


UNBUILT = [
    (task(session_id="s", evidence=[e.Evidence(kind=9)]), "task.evidence[0].kind = 9"),  # type: ignore[arg-type]
    (task(data_demand=9), "task.data_demand = 9"),
    (ask(quality=c.QualityDemands(gates=[99])), "quality.gates[0] = 99"),  # type: ignore[list-item]
    (ask(quality=c.QualityDemands(on_unmet=9)), "quality.on_unmet = 9"),  # type: ignore[arg-type]
    (ask(sampling=c.Sampling(top_k=1)), "sampling.top_k"),
    (ask(delivery=9), "delivery = 9"),
    (ask(on_interruption=9), "on_interruption = 9"),
    (ask(reasoning_effort=9), "reasoning_effort = 9"),
    (ask(tool_choice=c.ToolChoice(mode=9)), "tool_choice.mode = 9"),  # type: ignore[arg-type]
    (CompleteRequest(messages=[say(9, c.Part(text="x"))]), "messages[0].role = 9"),  # type: ignore[arg-type]
    (
        CompleteRequest(messages=[say(c.ROLE_ASSISTANT, c.Part(
            reasoning=c.Reasoning(text="x"), cache_hint=True))]),
        "messages[0].parts[0].cache_hint",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "name"), UNBUILT, ids=[n for _, n in UNBUILT])
def test_what_is_not_built_is_refused_by_name(wire: CompleteRequest, name: str) -> None:
    refusal = refused(wire)

    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
    assert name in refusal.message


def test_sessions_and_evidence_are_taken() -> None:
    kinds = {kind.name: kind for kind in EvidenceKind}
    signs = [
        e.Evidence(kind=e.EvidenceKind.Value(f"EVIDENCE_KIND_{n}"), signal_id="é/1") for n in kinds
    ]
    made = convert(task(session_id="run-1", evidence=signs)).request.task

    assert made.session_id == "run-1"
    assert made.evidence == tuple(Evidence(kind, "é/1") for kind in kinds.values())
    assert set(e.EvidenceKind.keys()) == {
        f"EVIDENCE_KIND_{name}" for name in ("UNSPECIFIED", *kinds)
    }


def test_demands_on_quality_are_taken() -> None:
    demands = c.QualityDemands(
        gates=[c.GATE_EMPTY, c.GATE_TRUNCATED, c.GATE_TOOL_CALL_INVALID, c.GATE_SCHEMA_VIOLATION],
        must_contain=["alpha", "beta"], min_length_chars=7, max_escalations=0,
        on_unmet=c.ON_UNMET_DELIVER,
    )  # fmt: skip
    shape = c.ResponseFormat(json_schema=c.JsonSchemaFormat(schema_json="{}"))
    wish = taken(ask(quality=demands, response_format=shape)).quality

    assert wish == Wish(
        Demands(
            frozenset({Gate.EMPTY, Gate.TRUNCATED, Gate.TOOL_CALL, Gate.JSON_SCHEMA,
                       Gate.TOO_SHORT, Gate.PATTERN}),
            7, (), ("alpha", "beta"),
        ),
        0, OnUnmet.DELIVER,
    )  # fmt: skip


def test_no_demand_is_not_a_demand_of_nothing() -> None:
    assert taken(ask()).quality is None
    assert taken(ask(quality=c.QualityDemands(min_length_chars=0))).quality == Wish()


def test_every_finding_is_told_at_once() -> None:
    refusal = refused(ask(max_output_tokens=0, task=e.Task(tokens=-1, dry_run=True)))

    wrong = {"max_output_tokens", "task.tokens", "task.dry_run"}
    assert {path for path, _ in refusal.violations} == wrong
    assert "(and 2 more)" in refusal.message


def test_endless_findings_are_bounded() -> None:
    refusal = refused(CompleteRequest(messages=[c.Message(role=c.ROLE_USER)] * 5_000))

    assert len(refusal.violations) == 64


@given(st.recursive(st.sampled_from(['"a"', '"[{"', '"\\""', "1"]), lambda inner: st.one_of(
    st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"),
    inner.map(lambda item: f'{{"k]":{item}}}'),
), max_leaves=60))  # fmt: skip
def test_depth_is_that_of_the_brackets_outside_strings(text: str) -> None:
    """Beside filler that is flat and makes the count of brackets large."""
    flat = ",".join(["[]"] * 40)
    deep, height = 0, 0
    for mark in text.replace('"[{"', "").replace('"k]"', "").replace('"\\""', ""):
        height += (mark in "[{") - (mark in "]}")
        deep = max(deep, height)

    assert json_depth(f"[{flat},{text}]") == 1 + max(deep, 1)


RICH = CompleteRequest(
    task=e.Task(type="debug", files=["a"], complexity=1, labels={"a": "b"}),
    messages=[
        say(
            c.ROLE_USER, c.Part(text="?"), c.Part(image=c.Image(media_type="image/png", data=b"p"))
        ),
        say(c.ROLE_ASSISTANT, c.Part(tool_call=c.ToolCall(id="c1", name="t"))),
        say(c.ROLE_TOOL, c.Part(tool_result=c.ToolResult(tool_call_id="c1", text="found"))),
    ],
    tools=[c.Tool(name="t", parameters_json_schema="{}")],
    sampling=c.Sampling(temperature=1, stop=["x"]),
    constraints=e.Constraints(lowest_layer="free", timeout=Duration(seconds=1)),
    flush_interval=Duration(seconds=1),
    request_id="r",
).SerializeToString()


@given(st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), max_size=8))
def test_any_message_is_taken_or_refused_and_never_breaks(edits: list[tuple[int, int]]) -> None:
    """A rich request with some bytes changed: whatever still parses is judged."""
    data = bytearray(RICH)
    for at, value in edits:
        data[at] = value
    try:
        wire = CompleteRequest.FromString(bytes(data))
    except DecodeError:
        return
    try:
        request = taken(wire)
    except RefusedError as error:
        assert error.refusal.message  # noqa: PT017 - both outcomes are allowed
    else:
        assert request.messages
