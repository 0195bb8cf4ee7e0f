from dataclasses import replace

import pytest

from escalade_server.core.catalog import Billing, TaskType
from tests.core.builders import OTHER, TYPES, cap, model, per_day, three_layers


def test_r18_the_same_model_on_two_accounts_is_two_models() -> None:
    one = model("openai/mini", counters=(per_day("openai", "mini", 50), cap("x", 1)))
    two = replace(one, account="second")

    assert (one.key, two.key) == ("openai/default/mini", "openai/second/mini")
    assert (one.account_key, two.account_key) == ("openai/default", "openai/second")
    assert [c.label for c in one.request_counters] == ["50/day"]


@pytest.mark.parametrize(
    ("billing", "paid"),
    [(Billing.FREE, False), (Billing.SUBSCRIPTION, True), (Billing.METERED, True)],
)
def test_r16_a_subscription_is_paid_too(billing: Billing, *, paid: bool) -> None:
    assert model("a/b", billing=billing).is_paid is paid


def test_a_layer_is_paid_if_any_of_its_models_is() -> None:
    assert [layer.is_paid for layer in three_layers().layers] == [False, True, True]
    assert [m.id for m in three_layers().models] == ["mini", "flash", "glm", "m2", "gpt"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("parse", TYPES["parse"]),
        ("parsing", TYPES["parse"]),
        (" Parsing ", TYPES["parse"]),
        ("DEBUG", TYPES["debug"]),
        ("juggling", OTHER),
        ("", OTHER),
    ],
)
def test_r2_types_are_found_by_their_usual_spellings(name: str, found: TaskType) -> None:
    assert three_layers().task_type(name) is found


def test_r2_an_underscore_is_a_hyphen() -> None:
    strategy = replace(three_layers(), type_aliases={"code-gen": "debug"})

    assert strategy.task_type("code_gen") is TYPES["debug"]
