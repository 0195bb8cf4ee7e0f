import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import cast

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

import escalade
from escalade import testing
from escalade._convert import message_to_proto, nanos_of, part_from_proto, part_to_proto
from escalade._proto import name_of, one_line, usd_of
from escalade.v1 import completion_pb2, router_service_pb2

parts = st.one_of(
    st.builds(escalade.Text, st.text()),
    st.builds(escalade.Image, st.text(), st.binary()),
    st.builds(escalade.ToolCall, st.text(), st.text(), st.text()),
    st.builds(escalade.ToolResult, st.text(), st.text(), st.booleans()),
    st.builds(escalade.Reasoning, st.text()),
    st.builds(escalade.ProviderState, st.text(), st.text(), st.binary()),
)


def everything_said() -> router_service_pb2.CompleteRequest:
    tool = escalade.Tool("read", "Reads.", {"type": "object"})
    with testing.Server([testing.answer("x")]) as server, server.client() as client:
        stream = client.stream(
            [
                escalade.Message.user("Look:", escalade.Image("image/png", b"p", cache_hint=True)),
                escalade.Message.assistant(
                    escalade.ProviderState("anthropic", "m", b"s"),
                    escalade.Reasoning("hm"),
                    escalade.ToolCall("c", "read", "{}"),
                ),
                escalade.Message.tool(escalade.ToolResult("c", "no file", is_error=True)),
            ],
            task=escalade.Task(
                "debug",
                files=["a.py"],
                file_count=1,
                tokens=0,
                complexity=0.0,
                capabilities=["debugging"],
                labels={"team": "x"},
                session_id="s",
                evidence=[escalade.Evidence("failed_check", "ci-1")],
                data_demand="private",
            ),
            system="Be brief.",
            tools=[tool, escalade.Tool("list")],
            tool_choice=tool,
            response_format=escalade.JsonSchema({"type": "object"}, name="out"),
            sampling=escalade.Sampling(0.0, 0.5, 3, 7, 0.1, 0.2, ["END"]),
            reasoning_effort="low",
            max_output_tokens=100,
            constraints=escalade.Constraints(
                free_only=False,
                spend_limit_usd="0.05",
                lowest_layer="a",
                highest_layer="b",
                allowed_models=["m"],
                denied_models=["n"],
                may_downgrade=False,
                may_wait=True,
                max_wait=timedelta(hours=1),
                work_timeout=timedelta(seconds=90),
                consented_layers=["*"],
            ),
            quality=escalade.QualityDemands(
                gates=["empty", "invalid_json"],
                must_contain=["yes"],
                min_length_chars=2,
                max_escalations=0,
                on_unmet="deliver",
            ),
            flush_interval=timedelta(milliseconds=50),
            request_id="mine",
            resume_token="token",
            on_restart=lambda _: None,
        )
        with stream:
            assert stream.answer().request_id == stream.request_id == "mine"

    return server.calls[0].request


def test_every_field_of_the_request_can_be_said() -> None:
    sent = everything_said()
    unset = {field.name for field in sent.DESCRIPTOR.fields} - {
        f.name for f, _ in sent.ListFields()
    }
    assert unset == set()
    for message in (sent.task, sent.sampling, sent.constraints, sent.quality):
        unsaid = {f.name for f in message.DESCRIPTOR.fields} - {
            f.name for f, _ in message.ListFields()
        }
        assert unsaid <= {"dry_run"}  # Complete refuses it
    said = MessageToDict(sent, preserving_proto_field_name=True)
    assert said["constraints"]["spend_limit_nano_usd"] == "50000000"
    assert (said["constraints"]["timeout"], said["constraints"]["max_wait"]) == ("90s", "3600s")
    assert said["task"]["complexity"] == 0.0
    assert said["task"]["evidence"] == [{"kind": "EVIDENCE_KIND_FAILED_CHECK", "signal_id": "ci-1"}]
    assert [message["role"] for message in said["messages"]] == [
        "ROLE_SYSTEM",
        "ROLE_USER",
        "ROLE_ASSISTANT",
        "ROLE_TOOL",
    ]
    assert said["messages"][1]["parts"][1]["cache_hint"] is True
    assert said["tool_choice"] == {"tool_name": "read"}
    assert json.loads(said["tools"][1]["parameters_json_schema"])["type"] == "object"
    assert said["quality"]["gates"] == ["GATE_EMPTY", "GATE_INVALID_JSON"]
    assert said["delivery"] == "DELIVERY_STREAM"


def test_what_is_not_said_is_not_sent() -> None:
    with testing.Server([testing.answer("x")]) as server, server.client() as client:
        client.complete("Why?")

    sent = server.calls[0].request
    assert {field.name for field, _ in sent.ListFields()} == {
        "task",
        "messages",
        "on_interruption",
        "delivery",
        "request_id",
    }
    assert sent.task.ListFields() == []


def test_the_words_of_choices() -> None:
    script = [testing.answer("x")] * 3
    with testing.Server(script) as server, server.client() as client:
        client.complete("x", tool_choice="required", response_format="json", temperature=0.0)
        client.complete("x", response_format="text", task="plan")
        client.complete(escalade.Message.user("x"), constraints=escalade.Constraints())

    first, second, third = (call.request for call in server.calls)
    assert first.tool_choice.mode == completion_pb2.TOOL_MODE_REQUIRED
    assert first.response_format.WhichOneof("kind") == "json"
    assert first.sampling.HasField("temperature")
    assert second.response_format.WhichOneof("kind") == "text"
    assert second.task.type == "plan"
    assert third.constraints.ListFields() == []


def test_a_word_that_is_unknown_comes_with_those_that_are_known() -> None:
    with testing.Server() as server, server.client() as client:
        gates = [cast("escalade.Gate", "json_schema")]
        with pytest.raises(escalade.UsageError, match=r"'json_schema'; known .*'schema_violation'"):
            client.complete("x", quality=escalade.QualityDemands(gates=gates))
        sign = escalade.Evidence(cast("escalade.EvidenceKind", "made_up"))
        with pytest.raises(escalade.UsageError, match=r"'made_up'; known .*'failed_check'"):
            client.complete("x", task=escalade.Task(evidence=[sign]))


WRONG_CALLS: Mapping[str, Callable[[escalade.Client], object]] = {
    "no message": lambda client: client.complete([]),
    "a text in a list": lambda client: client.complete(cast("list[escalade.Message]", ["x"])),
    "a number": lambda client: client.complete(cast("str", 7)),
    "messages of another SDK": lambda client: client.complete(
        cast("list[escalade.Message]", [{"role": "user", "content": "x"}])
    ),
    "a dict for a task": lambda client: client.complete("x", task=cast("str", {"type": "debug"})),
    "a bare schema": lambda client: client.complete(
        "x", response_format=cast("escalade.JsonSchema", {"type": "object"})
    ),
    "a text for a time": lambda client: client.complete("x", timeout=cast("float", "5s")),
    "a role": lambda client: client.complete(
        escalade.Message(cast("escalade.Role", "boss"), (escalade.Text("x"),))
    ),
    "one text for a list": lambda client: client.complete("x", task=escalade.Task(files="a.py")),
    "a mode": lambda client: client.complete("x", tool_choice=cast("escalade.ToolMode", "maybe")),
    "a gate": lambda client: client.complete(
        "x", quality=escalade.QualityDemands(gates=[cast("escalade.Gate", "nice")])
    ),
    "no JSON": lambda client: client.complete(
        "x", response_format=escalade.JsonSchema({"a": float("nan")})
    ),
    "out of range": lambda client: client.complete("x", max_output_tokens=2**64),
    "temperature twice": lambda client: client.complete(
        "x", temperature=1.0, sampling=escalade.Sampling()
    ),
    "negative money": lambda client: client.complete(
        "x", constraints=escalade.Constraints(spend_limit_usd=-1)
    ),
    "no money": lambda client: client.complete(
        "x", constraints=escalade.Constraints(spend_limit_usd="a lot")
    ),
    "infinite money": lambda client: client.complete(
        "x", constraints=escalade.Constraints(spend_limit_usd=float("inf"))
    ),
    "too fine money": lambda client: client.complete(
        "x", constraints=escalade.Constraints(spend_limit_usd=Decimal("1e-10"))
    ),
    "a negative wait": lambda client: client.complete(
        "x", constraints=escalade.Constraints(max_wait=timedelta(seconds=-1))
    ),
    "no time": lambda client: client.complete("x", timeout=0),
    "not a time": lambda client: client.status(timeout=float("nan")),
    "no text": lambda client: client.complete(escalade.Message.user(cast("str", 7))),
}


@pytest.mark.parametrize("wrong", WRONG_CALLS)
def test_a_mistake_is_found_before_anything_is_sent(wrong: str) -> None:
    with (
        testing.Server([]) as server,
        server.client() as client,
        pytest.raises(escalade.UsageError),
    ):
        WRONG_CALLS[wrong](client)

    assert server.calls == []


@given(parts)
def test_parts_come_back_as_they_went(part: escalade.Part) -> None:
    assert part_from_proto(part_to_proto(part)) == part


@given(st.lists(parts, max_size=3))
def test_an_answer_can_be_returned_as_it_is(made: list[escalade.Part]) -> None:
    message = escalade.Message("assistant", tuple(made))
    wire = message_to_proto(message)

    assert wire.role == completion_pb2.ROLE_ASSISTANT
    assert len(wire.parts) == len(made)


@given(st.integers(0, 2**63 - 1))
def test_money_is_exact_both_ways(nanos: int) -> None:
    assert nanos_of(usd_of(nanos)) == nanos
    assert usd_of(-nanos) == -usd_of(nanos)


@pytest.mark.parametrize(
    ("nanos", "shown"),
    [(0, "0"), (2_100_000, "0.0021"), (10**10, "10"), (1_500_000_000, "1.5")],
)
def test_money_reads_well(nanos: int, shown: str) -> None:
    assert str(usd_of(nanos)) == shown


def test_a_float_counts_as_it_prints() -> None:
    assert nanos_of(0.1) == 100_000_000


def test_names_of_enums() -> None:
    enum = completion_pb2.FinishReason.DESCRIPTOR

    assert [name_of(enum, value) for value in (0, 1, 4, 99)] == ["", "STOP", "CONTENT_FILTER", "99"]


@given(st.text())
def test_one_line_is_one_printable_line(text: str) -> None:
    folded = one_line(text)

    assert len(folded.splitlines()) <= 1
    assert folded.isprintable()


@pytest.mark.parametrize("text", ["[1]", "not JSON", ""])
def test_arguments_that_are_no_object(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a JSON object|Expecting value"):
        escalade.ToolCall("c", "read", text).arguments()
