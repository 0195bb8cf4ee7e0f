"""What a trigger makes of a layer: its conditions, and the score (R5, R6)."""

from dataclasses import replace

import pytest

from escalade_server.core.complexity import UNITS_PER_POINT
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Verdict, VerdictClass
from escalade_server.core.survey import Survey, condition_holds, trigger_holds
from escalade_server.core.triggers import Comparison, ComplexityTrigger, Condition, LayerTrigger
from tests.core.builders import model
from tests.core.parts import need, one_layer, skip

MINI = one_layer(model("openai/mini")).models[0]
V = VerdictClass


def out(*verdicts: Verdict) -> Survey:
    return Survey([], [skip(MINI, each) for each in verdicts])


FULL, SPENT, GONE = Verdict(V.RATE), Verdict(V.MONEY), Verdict(V.DOWN)
TRIED_429 = Verdict(V.TRIED, failure=FailureClass.RATE_SHORT)
TRIED_402 = Verdict(V.TRIED, failure=FailureClass.BALANCE)
ANY = {Condition.EXHAUSTED, Condition.ALL_MODELS_UNAVAILABLE}


@pytest.mark.parametrize(
    ("verdicts", "holding"),
    [
        ((GONE,), ANY),
        ((GONE, FULL), ANY | {Condition.RATE_LIMIT_EXCEEDED}),
        ((GONE, SPENT), ANY | {Condition.BUDGET_EXHAUSTED}),
        ((TRIED_429,), ANY | {Condition.RATE_LIMIT_EXCEEDED}),
        ((TRIED_402, TRIED_429), set(Condition)),
        ((Verdict(V.HELD), Verdict(V.TRIED)), ANY),
    ],
)
def test_r5_conditions_of_a_layer_without_an_ok_model(
    verdicts: tuple[Verdict, ...], holding: set[Condition]
) -> None:
    survey = out(*verdicts)

    assert {c for c in Condition if condition_holds(c, survey)} == holding


@pytest.mark.parametrize("condition", Condition)
def test_r5_no_condition_holds_while_a_model_is_ok(condition: Condition) -> None:
    survey = Survey([need().candidate(MINI, None)], [skip(MINI, FULL), skip(MINI, SPENT)])

    assert not condition_holds(condition, survey)


def test_r6_a_trigger_asks_a_layer_or_the_score() -> None:
    surveys = {"free": out(FULL)}
    layer = LayerTrigger("free", Condition.RATE_LIMIT_EXCEEDED, "")
    above = ComplexityTrigger(Comparison.GT, 8_000_000, "")

    assert trigger_holds(layer, 0, surveys)
    assert not trigger_holds(layer, 0, {})
    assert not trigger_holds(replace(layer, condition=Condition.BUDGET_EXHAUSTED), 0, surveys)
    assert trigger_holds(above, 9 * UNITS_PER_POINT, {})
    assert not trigger_holds(above, 8 * UNITS_PER_POINT, {})
