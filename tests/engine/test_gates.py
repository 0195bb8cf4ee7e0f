"""Gates in the engine: the checker that it is given, and what it learns of what stands in (R21)."""

from dataclasses import replace

import pytest

from escalade_server.core.facts import ErrorReason, Failed, Finished
from escalade_server.core.gates import Demands, Gate, OnUnmet, Quality, Wish
from escalade_server.core.rules import Rules
from escalade_server.core.task import Delivery, FormatKind, ResponseFormat
from tests.core.builders import request, three_layers
from tests.engine.shell import World

pytestmark = pytest.mark.looptime

ZEBRA = Demands(frozenset({Gate.PATTERN}), literals=("zebra",))
HELLO = Demands(frozenset({Gate.PATTERN}), literals=("Hello",))
DELIVER = Quality(ZEBRA, escalations_max=0, on_unmet=OnUnmet.DELIVER)
SCHEMA = Demands(frozenset({Gate.JSON_SCHEMA}))


def world(quality: Quality) -> World:
    return World(three_layers(Rules(quality=quality)))


async def test_what_passes_is_delivered_and_learnt_from() -> None:
    made = world(Quality(HELLO))
    caller = await made.ask(request())

    assert caller.text == "Hello there"
    assert made.engine.health.output_means


async def test_what_stands_in_is_delivered_told_again_and_not_learnt_from() -> None:
    made = world(DELIVER)
    asked = replace(request(), content="abc", agent="bot")
    caller = await made.ask(asked)
    again = await made.ask(replace(asked, delivery=Delivery.WHOLE))

    assert caller.text == "Hello there"
    for outcome in (caller.outcome, again.outcome):
        assert isinstance(outcome, Finished)
        assert outcome.unmet is Gate.PATTERN
    assert len(made.providers.called) == 1
    assert len(made.store.settles) == 1, "booked once"
    assert [tally.model for tally in made.store.tallies] == ["openai/default/mini"]
    assert not made.engine.health.output_means


@pytest.mark.parametrize("asked", ["request", "strategy", "nobody"])
async def test_a_schema_that_cannot_be_checked_reserves_nothing(asked: str) -> None:
    made = world(Quality(SCHEMA if asked == "strategy" else Demands()))
    poor = replace(
        request(),
        response_format=ResponseFormat(FormatKind.JSON_SCHEMA, "s", '{"type": 3}'),
        quality=Wish(SCHEMA) if asked == "request" else None,
        content="abc",
    )
    caller = await made.ask(poor)
    good = await made.ask(replace(poor, response_format=ResponseFormat(), content="other"))

    if asked == "nobody":
        assert isinstance(caller.outcome, Finished), "the provider may know better"
        return
    assert isinstance(caller.outcome, Failed)
    assert caller.outcome.reason is ErrorReason.REQUEST_INVALID
    assert isinstance(good.outcome, Finished), "its request id stayed free"
    assert len(made.providers.called) == 1
