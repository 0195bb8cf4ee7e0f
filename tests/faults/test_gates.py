"""Fault P15 through the wire: an answer that fails a gate, who asked for it, and what it costs."""

from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

import escalade
from escalade.v1 import completion_pb2 as c
from escalade.v1 import error_pb2
from escalade.v1 import escalation_pb2 as e
from escalade_server.provider_simulator import ModelScript
from tests.api.world import Told
from tests.faults.fleet import PRICED, openai, strategy
from tests.faults.machine import until
from tests.faults.served import PRICE, Served, attempts, served, tried

pytestmark = pytest.mark.fault("P15")

PROSE = "Sure! Here is your JSON."
JSON = '{"sum": 3}'
SCHEMA = '{"type": "object", "required": ["sum"], "properties": {"sum": {"type": "integer"}}}'
AS_JSON = c.ResponseFormat(json=c.JsonFormat())
AS_SCHEMA = c.ResponseFormat(json_schema=c.JsonSchemaFormat(name="sum", schema_json=SCHEMA))
CHEAP = "cheap monthly_cap: $5; billing: metered"
DEAR = "dear monthly_cap: $5; billing: metered"
ABLE = f"{PRICED}, features: [tools, json_schema]"
STRICT = "quality: {gates: [invalid_json]}"


def two(cheap: str = "", rules: str = "") -> tuple[str, dict[str, dict[str, ModelScript]]]:
    """Make two layers; the model of the cheap one answers in prose, that of the dear in JSON."""
    text = strategy(
        f"{CHEAP}{cheap and '; '}{cheap} | {openai('chatty', ABLE)}",
        f"{DEAR} | {openai('able', ABLE)}",
        rules=rules,
        providers=("openai",),
    )
    scripts = {
        "chatty": ModelScript(text=PROSE, obeys_format=False, price=PRICE),
        "able": ModelScript(text=JSON, obeys_format=False, price=PRICE),
    }
    return text, {"openai": scripts}


async def ask(world: Served, **fields: object) -> Told:
    return await world.ask("Answer in JSON.", **{"response_format": AS_JSON, **fields})


def fields_of(told: Told) -> list[str]:
    bad = told.detail(error_details_pb2.BadRequest)
    return [each.field for each in bad.field_violations]


def words(told: Told) -> str:
    """What the caller holds at the end, however it was delivered."""
    whole = "".join(part.text for part in told.events[-1].finished.answer.parts)
    return whole or "".join(ev.delta.text for ev in told.events if ev.HasField("delta"))


def from_attempts(told: Told) -> set[int]:
    return {ev.delta.attempt for ev in told.events if ev.HasField("delta")}


DELIVERIES = [c.DELIVERY_STREAM, c.DELIVERY_WHOLE]


@pytest.mark.parametrize("delivery", DELIVERIES)
async def test_a_cheap_models_invalid_json_escalates_is_charged_and_is_never_seen(
    tmp_path: Path, delivery: c.Delivery.ValueType
) -> None:
    text, providers = two(rules=STRICT)
    async with served(tmp_path, text, providers) as world:
        told = await ask(world, delivery=delivery)
        await until(lambda: world.running.engine.running == 0)
        booked, held = world.booked_nanos(), world.held()
    assert told.code is grpc.StatusCode.OK
    assert words(told) == JSON
    assert from_attempts(told) <= {2}
    (escalated,) = [ev.escalated for ev in told.events if ev.HasField("escalated")]
    assert escalated.reason == e.ESCALATION_REASON_QUALITY
    assert escalated.detail.endswith("was no JSON")
    held_by = [list(ev.selected.held_by) for ev in told.events if ev.HasField("selected")]
    assert held_by == [[c.GATE_INVALID_JSON]] * 2
    first, second = attempts(told)
    assert (first.status, first.gate) == (e.ATTEMPT_STATUS_REJECTED, c.GATE_INVALID_JSON)
    assert first.failure_class == error_pb2.FAILURE_CLASS_GATE
    assert first.cost.charged_nano_usd > 0
    assert (second.status, second.gate) == (e.ATTEMPT_STATUS_OK, c.GATE_UNSPECIFIED)
    assert booked == first.cost.list_nano_usd + second.cost.list_nano_usd
    assert held == 0
    assert told.events[-1].finished.quality == e.QUALITY_MET
    assert PROSE not in str(told.events)


WHO = {
    "nobody": ("", "", {}, ["chatty"]),
    "the strategy": ("", STRICT, {}, ["chatty", "able"]),
    "the layer": ("quality: {gates: [invalid_json]}", "", {}, ["chatty", "able"]),
    "the task type": (
        "", "task_types: {parse: {quality: {gates: [invalid_json]}}}",
        {"task": e.Task(type="parsing")}, ["chatty", "able"],
    ),
    "another task type": (
        "", "task_types: {debug: {quality: {gates: [invalid_json]}}}",
        {"task": e.Task(type="parsing")}, ["chatty"],
    ),
    "the request": (
        "", "", {"quality": c.QualityDemands(gates=[c.GATE_INVALID_JSON])}, ["chatty", "able"],
    ),
    "its schema": (
        "", "",
        {
            "quality": c.QualityDemands(gates=[c.GATE_SCHEMA_VIOLATION]),
            "response_format": AS_SCHEMA,
        },
        ["chatty", "able"],
    ),
    "its words": (
        "", "", {"quality": c.QualityDemands(must_contain=["sum"])}, ["chatty", "able"],
    ),
    "its length": (
        "", "", {"quality": c.QualityDemands(min_length_chars=len(JSON))}, ["chatty"],
    ),
    "the strategy's length": ("", "quality: {shortest_characters: 25}", {}, ["chatty", "able"]),
    "the strategy's pattern": ("", "quality: {pattern: '^\\{'}", {}, ["chatty", "able"]),
    "another form": (
        "", STRICT, {"response_format": c.ResponseFormat()}, ["chatty"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("cheap", "rules", "fields", "expected"), WHO.values(), ids=WHO)
async def test_a_gate_is_asked_where_it_is_demanded(
    tmp_path: Path, cheap: str, rules: str, fields: dict[str, object], expected: list[str]
) -> None:
    long = rules == "quality: {shortest_characters: 25}"
    text, providers = two(cheap, rules)
    async with served(tmp_path, text, providers) as world:
        told = await ask(world, **fields)
    assert tried(told) == expected
    good = not long
    assert told.code is (grpc.StatusCode.OK if good else grpc.StatusCode.FAILED_PRECONDITION)


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("unmet", ["fail", "deliver"])
@pytest.mark.parametrize("stated", ["strategy", "request"])
async def test_when_no_layer_passes_the_answer_fails_or_stands_in(
    tmp_path: Path, delivery: c.Delivery.ValueType, unmet: str, stated: str
) -> None:
    """``deliver`` delivers the last one; the request's word beats the strategy's."""
    other = {"fail": "deliver", "deliver": "fail"}[unmet]
    rule = f"quality: {{pattern: zebra, on_unmet: {unmet if stated == 'strategy' else other}}}"
    wish = {"fail": c.ON_UNMET_FAIL, "deliver": c.ON_UNMET_DELIVER}[unmet]
    fields = {"quality": c.QualityDemands(on_unmet=wish)} if stated == "request" else {}
    text, providers = two(rules=rule)
    async with served(tmp_path, text, providers) as world:
        told = await ask(world, delivery=delivery, request_id="once", **fields)
        again = await ask(world, delivery=delivery, request_id="once", **fields)
        await until(lambda: world.running.engine.running == 0)
        calls = world.calls()
    assert tried(told) == ["chatty", "able"]
    assert [a.status for a in attempts(told)] == [e.ATTEMPT_STATUS_REJECTED] * 2
    if unmet == "fail":
        assert (told.code, told.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION, "QUALITY_NOT_MET",
        )  # fmt: skip
        assert not from_attempts(told)
        assert calls == {"chatty": 2, "able": 2}, "an id without an answer runs again (R27)"
        return
    finished = told.events[-1].finished
    assert told.code is grpc.StatusCode.OK
    assert finished.quality == e.QUALITY_UNMET
    assert words(told) == JSON, "the last answer, not the first"
    assert from_attempts(told) <= {2}
    assert finished.report.answered.model == "able"
    assert again.events[-1].finished.replayed
    assert calls == {"chatty": 1, "able": 1}, "an answer that stands in is one (R27)"


async def test_an_answer_that_stands_in_marks_its_id_in_the_ledger(tmp_path: Path) -> None:
    """Where the answer is not kept, its id is known to be answered all the same (R27)."""
    rule = "quality: {pattern: zebra, on_unmet: deliver}\nidempotency: {keep_answers: 0s}"
    text, providers = two(rules=rule)
    async with served(tmp_path, text, providers) as world:
        told = await ask(world, request_id="once")
        again = await ask(world, request_id="once")
        calls = world.calls()
    assert told.code is grpc.StatusCode.OK
    assert (again.code, again.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_ANSWERED")
    cost = told.events[-1].finished.report.cost
    assert again.events[-1].failed.report.cost == cost
    assert calls == {"chatty": 1, "able": 1}


@pytest.mark.parametrize("most", [0, 1, 2])
async def test_a_task_escalates_for_quality_so_often_at_most(tmp_path: Path, most: int) -> None:
    rule = f"quality: {{pattern: zebra, max_escalations: {most}}}"
    text, providers = two(rules=rule)
    async with served(tmp_path, text, providers) as world:
        told = await ask(world)
    assert tried(told) == ["chatty", "able"][: most + 1]
    assert told.reason == "QUALITY_NOT_MET"


REFUSED = {
    "a refusal is the strategy's": ({"gates": [c.GATE_REFUSAL]}, "quality.gates[0]"),
    "no gate": ({"gates": [0]}, "quality.gates[0]"),
    "a length without one": ({"gates": [c.GATE_TOO_SHORT]}, "quality.gates[0]"),
    "words without any": ({"gates": [c.GATE_PATTERN_MISSING]}, "quality.gates[0]"),
    "a schema without one": ({"gates": [c.GATE_SCHEMA_VIOLATION]}, "quality.gates[0]"),
    "too many gates": ({"gates": [c.GATE_EMPTY] * 9}, "quality.gates"),
    "too many words": ({"must_contain": ["x"] * 33}, "quality.must_contain"),
    "an empty word": ({"must_contain": [""]}, "quality.must_contain[0]"),
    "too long a word": ({"must_contain": ["x" * 1_001]}, "quality.must_contain[0]"),
    "a negative length": ({"min_length_chars": -1}, "quality.min_length_chars"),
    "too many escalations": ({"max_escalations": 101}, "quality.max_escalations"),
}


async def test_demands_that_cannot_be_are_refused_by_the_field(tmp_path: Path) -> None:
    text, providers = two()
    async with served(tmp_path, text, providers) as world:
        for case, (fields, field) in REFUSED.items():
            told = await ask(world, quality=c.QualityDemands(**fields))  # type: ignore[arg-type]
            assert told.code is grpc.StatusCode.INVALID_ARGUMENT, case
            assert fields_of(told) == [field], case
        calls = world.calls()
    assert calls == {}


SCHEMAS = [
    ('{"type": 3}', "is no valid JSON schema"),
    ('{"$ref": "http://127.0.0.1:1/x"}', "refers to something outside itself"),
    (f'{{"title": "{"x" * 262_200}"}}', "is larger than 256 KiB"),
]


@pytest.mark.parametrize("asked", ["strategy", "layer", "type", "request", "nobody"])
async def test_a_schema_that_cannot_be_checked_is_refused_before_anything_is_reserved(
    tmp_path: Path, asked: str
) -> None:
    gates = "quality: {gates: [json_schema]}"
    rules = {"strategy": gates, "type": f"task_types: {{parse: {{{gates}}}}}"}.get(asked, "")
    text, providers = two(gates if asked == "layer" else "", rules)
    fields: dict[str, object] = {}
    if asked == "request":
        fields = {"quality": c.QualityDemands(gates=[c.GATE_SCHEMA_VIOLATION])}
    async with served(tmp_path, text, providers) as world:
        for schema, says in SCHEMAS:
            form = c.ResponseFormat(json_schema=c.JsonSchemaFormat(schema_json=schema))
            told = await ask(world, response_format=form, **fields)
            if asked == "nobody":
                assert told.code is grpc.StatusCode.OK
                continue
            assert (told.code, told.reason) == (
                grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID",
            )  # fmt: skip
            assert fields_of(told) == ["response_format.json_schema.schema_json"]
            assert says in told.events[-1].failed.message
        calls = world.calls()
    assert calls == ({"chatty": 3} if asked == "nobody" else {})


async def test_the_sdk_asks_for_quality_and_tells_what_came_of_it(tmp_path: Path) -> None:
    text, providers = two()
    async with (
        served(tmp_path, text, providers) as world,
        escalade.AsyncClient(world.running.target) as client,
    ):
        demands = escalade.QualityDemands(must_contain=["sum"])
        answer = await client.complete("Add.", quality=demands)
        zebra = escalade.QualityDemands(must_contain=["zebra"], on_unmet="deliver")
        async with client.stream("Add.", quality=zebra) as stream:
            pieces = "".join([piece async for piece in stream.text])
            poor = await stream.answer()
        none = escalade.QualityDemands(must_contain=["zebra"], max_escalations=0)
        with pytest.raises(escalade.QualityNotMet):
            await client.complete("Add.", quality=none)
    assert (answer.text, answer.quality, answer.model) == (JSON, "MET", "able")
    assert [a.gate for a in answer.attempts] == ["PATTERN_MISSING", ""]
    assert [each.reason for each in answer.escalations] == ["QUALITY"]
    assert (poor.text, pieces, poor.quality) == (JSON, JSON, "UNMET")
