"""Where a gate can fail at all, and when a schema is looked at (R21)."""

from dataclasses import replace

import pytest

from escalade_server.core.facts import ErrorReason, Selected
from escalade_server.core.gates import Demands, Gate, Quality, Wish
from escalade_server.core.gating import may_check_schema, unusable_schema
from escalade_server.core.task import FormatKind, ResponseFormat, Tool
from tests.core.builders import request
from tests.core.gated import DELIVER, WORDS, strategy
from tests.core.play import Play

JSON = ResponseFormat(FormatKind.JSON)
SCHEMA = ResponseFormat(FormatKind.JSON_SCHEMA, "s", "{}")
HELD = [
    (Gate.EMPTY, {}, False),
    (Gate.REFUSAL, {}, True),
    (Gate.INVALID_JSON, {}, False),
    (Gate.INVALID_JSON, {"response_format": JSON}, True),
    (Gate.JSON_SCHEMA, {"response_format": JSON}, False),
    (Gate.JSON_SCHEMA, {"response_format": SCHEMA}, True),
    (Gate.TOOL_CALL, {}, False),
    (Gate.TOOL_CALL, {"tools": (Tool("f", "", "{}"),)}, True),
    (Gate.TOO_SHORT, {}, False),
    (Gate.PATTERN, {}, False),
    (Gate.TRUNCATED, {}, False),
    (Gate.TRUNCATED, {"output_tokens_max": 999}, False),
    (Gate.TRUNCATED, {"output_tokens_max": 1_001}, True),
]


@pytest.mark.parametrize(("gate", "asked", "held"), HELD)
def test_a_gate_holds_only_where_it_can_fail(
    gate: Gate,
    asked: dict[str, object],
    held: bool,  # noqa: FBT001 - a table's column
) -> None:
    cat = strategy(Quality(Demands(frozenset({gate}))))
    cut = tuple(
        replace(layer, models=tuple(replace(m, output_tokens_max=1_000) for m in layer.models))
        for layer in cat.layers
    )
    rules = replace(cat.rules, output_tokens_default=1_000)
    cat = replace(cat, layers=cut, rules=rules)
    game = Play(cat, replace(request(), **asked))  # type: ignore[arg-type]
    game.start()
    game.grant()

    assert game.told(Selected)[0].held_by == ((gate,) if held else ())


OF_TYPE = Quality(by_type={"debug": Demands(frozenset({Gate.JSON_SCHEMA}))})
WISHED = Wish(Demands(frozenset({Gate.JSON_SCHEMA})))


@pytest.mark.parametrize(
    ("form", "quality", "wish", "may"),
    [
        (SCHEMA, Quality(), None, False),
        (SCHEMA, DELIVER, Wish(WORDS), False),
        (SCHEMA, OF_TYPE, None, True),
        (SCHEMA, Quality(), WISHED, True),
        (JSON, OF_TYPE, WISHED, False),
    ],
)
def test_a_schema_is_looked_at_only_where_an_answer_may_have_to_obey_it(
    form: ResponseFormat,
    quality: Quality,
    wish: Wish | None,
    may: bool,  # noqa: FBT001 - a table's column
) -> None:
    asked = replace(request(), response_format=form, quality=wish)

    assert may_check_schema(asked, quality) is may


def test_what_cannot_be_checked_names_its_field() -> None:
    why = unusable_schema("refers to another file")

    assert why.reason is ErrorReason.REQUEST_INVALID
    field = "response_format.json_schema.schema_json"
    assert why.detail == f"{field} refers to another file"
    assert why.metadata == (("field", field),)
