from dataclasses import replace

import pytest

from escalade_server.core.attempt import Live
from escalade_server.core.events import ChunkArrived, Finish
from escalade_server.core.facts import AlertKind
from escalade_server.core.money import Price, cost_nanos
from escalade_server.core.oddities import alerts, is_other_model, list_nanos
from escalade_server.core.settlement import answered
from escalade_server.core.task import Basis, FinishReason, Usage
from escalade_server.core.trace import Oddities
from tests.core.builders import PRICE, T0, model
from tests.core.parts import live, need, spoken

DEAR = Price(input_picos=9_000_000, output_picos=9_000_000)
CHEAP = Price(input_picos=1, output_picos=1)
ASKED = replace(model("openai/gpt-4o"), siblings=(("o1", DEAR), ("gpt-4o-mini", CHEAP)))
USAGE = Usage(40, 8)


@pytest.mark.fault("U30")
@pytest.mark.parametrize(
    ("asked", "told", "is_other"),
    [
        ("gpt-4o", "", False),
        ("gpt-4o", "gpt-4o", False),
        ("gpt-4o", "gpt-4o-2024-08-06", False),
        ("gpt-4o-2024-08-06", "gpt-4o", False),
        ("claude-sonnet-4", "claude-sonnet-4@20250514", False),
        ("gemini-2.0-flash", "models/gemini-2.0-flash-001", False),
        ("deepseek-chat", "deepseek/DeepSeek-Chat:free", False),
        ("glm-5", "zai-org/glm-5-preview-05-20", False),
        ("gpt-4o", "gpt-4o-mini", True),
        ("gpt-4o", "gpt-4o-mini-2024-07-18", True),
        ("gpt-4", "gpt-4o", True),
        ("claude-3-haiku", "claude-3-opus", True),
        ("a", "b" * 10_000, True),
        ("a", "a" + "-free" * 100_000 + "!", True),
        ("GLM-5", "z-ai/glm-5", False),
        ("gpt-4-0613", "gpt-4", False),
        ("gpt-4", "gpt-4-1106-preview", False),
        ("command-r", "command-r-08-2024", False),
        ("gemini-2.5-pro", "gemini-2.5-pro-exp-03-25", False),
        ("claude-opus-4-1", "claude-opus-4-1-20250805", False),
        ("gpt-4", "gpt-4.1", True),
        ("gpt-4", "gpt-4.1-2025-04-14", True),
        ("glm-4", "glm-4.5", True),
        ("claude-sonnet-4", "claude-sonnet-4-5", True),
        ("claude-sonnet-4", "claude-sonnet-4-5-20250929", True),
        ("claude-opus-4-1-20250805", "claude-opus-4", True),
        ("o1", "o1.5-latest", True),
        ("grok-1", "grok-100", True),
    ],
)
def test_an_edition_is_the_model_and_a_variant_is_not(
    asked: str,
    told: str,
    is_other: bool,  # noqa: FBT001 - of the table
) -> None:
    assert is_other_model(asked, told) is is_other


def told(name: str, usage: Usage | None = USAGE, oddities: Oddities | None = None) -> Live:
    attempt = spoken(live(ASKED, need()), "word " * 8)
    finish = Finish(FinishReason.STOP)
    attempt.take(ChunkArrived(1, (), finish, usage, name, None, oddities), T0 + 900)
    return attempt


@pytest.mark.fault("U30")
@pytest.mark.parametrize(
    ("name", "price"),
    [("gpt-4o-2024-08-06", PRICE), ("gpt-4o-mini", PRICE), ("O1-2024-12-17", DEAR), ("new", PRICE)],
)
def test_the_dearer_of_two_models_is_booked(name: str, price: Price) -> None:
    assert list_nanos(told(name), USAGE) == cost_nanos(USAGE, price)
    assert answered(told(name), need()).nanos == cost_nanos(USAGE, price)


def test_an_answer_in_good_order_is_no_news() -> None:
    assert alerts(told("gpt-4o-2024-08-06")) == []
    assert alerts(told("gpt-4o", oddities=Oddities(replaced=2, unknown=3))) == []


@pytest.mark.fault("U26", "U30")
def test_a_person_is_told_of_another_model_and_of_absurd_usage() -> None:
    odd = told("o1", None, Oddities(unbelievable=True))

    facts = [announced.fact for announced in alerts(odd)]

    assert [getattr(fact, "kind", None) for fact in facts] == [AlertKind.PROVIDER] * 2
    assert "beyond belief" in str(facts[0])
    assert "'o1'" in str(facts[1])


@pytest.mark.fault("U26")
def test_usage_beyond_its_bounds_is_counted_here_and_marked() -> None:
    absurd = told("gpt-4o", Usage(10**9, 8), Oddities(replaced=1))

    assert answered(absurd, need()).basis is Basis.ESTIMATED
    assert absurd.oddities == Oddities(replaced=1, unbelievable=True)


def test_usage_that_is_not_to_be_believed_voids_what_was_told_before() -> None:
    attempt = live(ASKED, need())
    attempt.take(ChunkArrived(1, (), None, Usage(5, 1)), T0)
    attempt.take(ChunkArrived(1, (), None, None, "", None, Oddities(unbelievable=True)), T0)
    assert attempt.usage is None
    attempt.take(ChunkArrived(1, (), None, USAGE, "", None, Oddities(replaced=1)), T0)
    assert attempt.usage == USAGE
