from dataclasses import replace

import pytest

from escalade_server.core.catalog import Catalog, Counter, CounterScope, Period, Unit
from escalade_server.core.money import worst_cost_nanos
from escalade_server.core.need import IMAGE_TOKENS_BOUND, INPUT_TOKENS_UNSTATED, layer_index
from escalade_server.core.task import (
    Constraints,
    DataDemand,
    Delivery,
    Feature,
    FormatKind,
    Image,
    Message,
    Request,
    ResponseFormat,
    Role,
    Task,
    Text,
    Tool,
)
from tests.core.builders import PRICE, catalog, model, request, three_layers
from tests.core.parts import need


def test_r13_the_input_is_bounded_by_its_bytes_and_estimated_by_a_quarter() -> None:
    wanted = need(req=request("x" * 400))

    assert wanted.input_bound == 400 + 2 * 16
    assert wanted.input_estimate == 100 + 8


def test_r13_an_image_is_bounded_by_the_dearest_known() -> None:
    base = request("")
    req = replace(base, messages=(Message(Role.USER, (Image("image/png", b"x" * 9),)),))

    assert need(req=req).input_bound == IMAGE_TOKENS_BOUND + 32


@pytest.mark.parametrize(
    ("change", "features"),
    [
        ({}, set()),
        ({"tools": (Tool("f", "", "{}"),)}, {Feature.TOOLS}),
        ({"response_format": ResponseFormat(FormatKind.JSON)}, set()),
        ({"response_format": ResponseFormat(FormatKind.JSON_SCHEMA)}, {Feature.JSON_SCHEMA}),
        (
            {"messages": (Message(Role.USER, (Text("a"), Image("image/png", b""))),)},
            {Feature.IMAGES},
        ),
    ],
)
def test_features_are_read_from_the_request(
    change: dict[str, object], features: set[Feature]
) -> None:
    base = request()
    fields = {name: getattr(base, name) for name in Request.__dataclass_fields__}

    assert need(req=Request(**(fields | change))).features == features


def test_r13_a_candidate_bounds_the_output_that_is_sent_upstream() -> None:
    req = replace(request("x" * 400), output_tokens_max=1_000)
    wanted = need(req=req)
    small = replace(model("a/b"), output_tokens_max=600, reasoning_bound_tokens=50)

    found = wanted.candidate(small, None)

    assert found.output_tokens_max == 600
    assert found.nanos == worst_cost_nanos(432, 650, PRICE)
    assert found.tokens == 108 * 5 // 4 + 64 + 512
    assert wanted.candidate(model("a/b"), 200).tokens == 108 * 5 // 4 + 64 + 400
    assert wanted.candidate(model("a/b"), 900).tokens == 108 * 5 // 4 + 64 + 1_000
    assert need().candidate(model("a/b"), None).output_tokens_max == 4_096


def test_a_candidate_holds_what_each_counter_counts() -> None:
    found = need().candidate(model("a/b"), None)
    held = [
        found.amount(Counter("k", unit, Period.DAY, 9, CounterScope.MODEL, ""))
        for unit in (Unit.REQUESTS, Unit.TOKENS, Unit.NANOS)
    ]

    assert held == [1, found.tokens, found.nanos]


@pytest.mark.parametrize(
    ("task", "capabilities", "matches"),
    [
        (Task(type="whatever"), (), True),
        (Task(type="parse"), ("parsing", "x"), True),
        (Task(type="parse"), ("x",), False),
        (Task(capabilities=("x", "y")), ("x",), False),
        (Task(capabilities=("x", "y")), ("x", "y", "z"), True),
        (Task(type="parse", capabilities=("x",)), ("parsing",), False),
        (Task(capabilities=("coding",)), ("code-generation",), True),
    ],
)
def test_r2_any_word_of_the_type_suffices_but_all_that_are_stated(
    task: Task, capabilities: tuple[str, ...], *, matches: bool
) -> None:
    strategy = replace(three_layers(), capability_aliases={"coding": "code-generation"})

    found = need(strategy, request(task=task)).matches(model("a/b", capabilities=capabilities))

    assert found is matches


def test_r30_a_spend_limit_of_zero_means_free_only() -> None:
    assert need(req=request(constraints=Constraints(spend_limit_nanos=0))).free_only
    assert need(req=request(constraints=Constraints(free_only=True))).free_only
    assert not need(req=request(constraints=Constraints(spend_limit_nanos=1))).free_only


def test_limits_are_noticed() -> None:
    assert not need().restricted
    assert need(req=request(constraints=Constraints(may_wait=True))).restricted
    assert need(req=request(task=Task(data_demand=DataDemand.PRIVATE))).restricted


def test_layers_are_found_by_name() -> None:
    strategy = three_layers()
    req = request(constraints=Constraints(lowest_layer="budget", highest_layer="budget"))
    wanted = need(strategy, req)

    assert (wanted.lowest, wanted.highest) == (1, 1)
    assert need().lowest == 0
    assert need().highest >= 2
    assert layer_index(strategy, "nowhere", 7) == 7


@pytest.mark.parametrize(
    ("change", "tokens"),
    [
        ({"input_tokens": 7}, 7),
        ({"input_tokens": 7, "messages": ()}, 7),
        ({"messages": (), "task": Task(tokens=9)}, 9),
        ({"messages": (), "task": Task(tokens=9), "delivery": Delivery.ROUTE}, 9),
        ({"messages": (), "task": Task(), "delivery": Delivery.ROUTE}, INPUT_TOKENS_UNSTATED),
        ({"messages": (), "task": Task(tokens=0), "delivery": Delivery.ROUTE},
         INPUT_TOKENS_UNSTATED),
        ({"messages": (), "task": Task()}, 16),
    ],
)  # fmt: skip
def test_r32_a_stated_input_is_the_bound_and_the_grant(
    change: dict[str, object], tokens: int
) -> None:
    assert need(req=replace(request(), **change)).input_bound == tokens  # type: ignore[arg-type]


def test_r3_stated_tokens_count_for_the_score_while_messages_are_measured() -> None:
    wanted = need(req=request("x" * 400, task=Task(tokens=9)))

    assert wanted.input_bound == 400 + 2 * 16


def test_stated_features_stand_beside_those_that_show() -> None:
    stated = replace(request(), features=frozenset({Feature.IMAGES}))
    both = replace(stated, tools=(Tool("f", "", "{}"),))

    assert need(req=stated).features == {Feature.IMAGES}
    assert need(req=both).features == {Feature.IMAGES, Feature.TOOLS}


def test_r2_models_that_match_come_first_each_group_in_file_order() -> None:
    models = (
        model("a/1"),
        model("a/2", capabilities=("parsing",)),
        model("a/3"),
        model("a/4", capabilities=("parsing", "x")),
    )
    strategy = catalog(("only", models, ()), ("next", models, ()))

    assert order(strategy, Task(type="parse")) == ["2", "4", "1", "3"] * 2
    assert order(strategy, Task(type="whatever")) == ["1", "2", "3", "4"] * 2
    assert order(strategy, Task(type="debug")) == ["1", "2", "3", "4"] * 2
    assert order(strategy, Task(capabilities=("x", "parsing"))) == ["4", "1", "2", "3"] * 2


def order(strategy: Catalog, task: Task) -> list[str]:
    return [m.id for models in need(strategy, request(task=task)).ranks for m in models]
