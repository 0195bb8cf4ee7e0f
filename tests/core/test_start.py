from dataclasses import replace

import pytest

from escalade_server.core.catalog import Billing, Catalog, DataPolicy, Scoring, TaskType
from escalade_server.core.complexity import UNITS_PER_MICRO
from escalade_server.core.rules import OnComplexity, Rules
from escalade_server.core.start import admits, capability_start, jump_target, start
from escalade_server.core.task import Constraints, DataDemand, Task
from escalade_server.core.trace import Clamp
from escalade_server.core.triggers import Comparison, ComplexityTrigger, Condition, LayerTrigger
from tests.core.builders import OTHER, TYPES, catalog, model, request, three_layers
from tests.core.parts import need

HARD = 9_000_000 * UNITS_PER_MICRO
EASY = 0


def named(comparison: Comparison, *, on_complexity: OnComplexity = OnComplexity.JUMP) -> Catalog:
    """Make a strategy whose second layer names the complexity, and a third that does not."""
    exhausted = LayerTrigger("free", Condition.EXHAUSTED, "free.exhausted")
    compares = ComplexityTrigger(comparison, 8_000_000, "task.complexity ? 8")
    return catalog(
        ("free", (model("a/free"),), ()),
        ("hard", (model("a/hard"),), (exhausted, compares)),
        ("last", (model("a/last"),), ()),
        rules=Rules(on_complexity=on_complexity),
    )


@pytest.mark.parametrize(
    ("comparison", "points", "layer"),
    [
        (Comparison.GT, 8, 0),
        (Comparison.GT, 9, 1),
        (Comparison.GE, 8, 1),
        (Comparison.GE, 7, 0),
        (Comparison.EQ, 8, 0),
        (Comparison.LT, 9, 2),  # it only admits, so the threshold decides: to the last layer
        (Comparison.LE, 9, 2),
    ],
)
def test_r4_only_gt_and_ge_make_a_jump(comparison: Comparison, points: int, layer: int) -> None:
    assert jump_target(named(comparison), points * 1_000_000 * UNITS_PER_MICRO) == layer


def test_r4_of_several_layers_that_name_complexity_the_last_that_holds() -> None:
    five = ComplexityTrigger(Comparison.GT, 5_000_000, "task.complexity > 5")
    nine = ComplexityTrigger(Comparison.GT, 9_500_000, "task.complexity > 9.5")
    several = catalog(
        ("free", (model("a/1"),), ()),
        ("more", (model("a/2"),), (five,)),
        ("most", (model("a/3"),), (nine,)),
    )

    assert jump_target(several, HARD) == 1
    assert jump_target(several, 10_000_000 * UNITS_PER_MICRO) == 2


def test_r4_without_a_trigger_the_jump_goes_to_the_last_layer_strictly_above() -> None:
    strategy = three_layers()

    assert jump_target(strategy, 8_000_000 * UNITS_PER_MICRO) == 0
    assert jump_target(strategy, 8_000_000 * UNITS_PER_MICRO + 1) == 2
    assert jump_target(replace(strategy, scoring=Scoring(threshold_micro=None)), HARD) == 0
    assert jump_target(three_layers(Rules(on_complexity=OnComplexity.IGNORE)), HARD) == 0


@pytest.mark.parametrize(("pin", "layer"), [(1, 0), (2, 1), (9, 2), (-1, 2), (None, 1)])
def test_r1_a_pin_is_clamped_to_the_layers_there_are(pin: int | None, layer: int) -> None:
    strategy = three_layers()
    kind = TaskType("debug", 7, frozenset({"debugging"}), start=pin)
    wanted = need(strategy, request(task=Task(type="debug")))

    assert capability_start(strategy, wanted, kind) == layer


def test_r1_a_skill_that_nobody_declares_starts_at_the_bottom() -> None:
    strategy = three_layers()
    wanted = need(strategy, request(task=Task(capabilities=("juggling",))))

    assert capability_start(strategy, wanted, OTHER) == 0
    assert capability_start(strategy, need(strategy, request(task=Task(type="x"))), OTHER) == 0


def begin(
    strategy: Catalog, limits: Constraints, units: int, *, demand: DataDemand = DataDemand.NONE
) -> tuple[int, int, Clamp | None]:
    kind = TYPES["parse"]
    req = request(task=Task(type="parse", data_demand=demand), constraints=limits)
    return start(strategy, need(strategy, req), kind, units)


@pytest.mark.parametrize(
    ("limits", "units", "expected"),
    [
        (Constraints(), EASY, (0, 0, None)),
        (Constraints(), HARD, (2, 2, None)),
        (Constraints(lowest_layer="budget"), EASY, (1, 0, Clamp.LOWEST_LAYER)),
        (Constraints(highest_layer="budget"), HARD, (1, 2, Clamp.HIGHEST_LAYER)),
        (Constraints(free_only=True), HARD, (0, 2, Clamp.FREE_ONLY)),
        (Constraints(spend_limit_nanos=0), HARD, (0, 2, Clamp.FREE_ONLY)),
        (Constraints(denied_models=("gpt",)), HARD, (1, 2, Clamp.HIGHEST_LAYER)),
        # Nothing at or below the start is admitted: the walk itself says so.
        (Constraints(allowed_models=("nobody",)), HARD, (2, 2, None)),
        (Constraints(lowest_layer="budget", free_only=True), EASY, (1, 0, Clamp.LOWEST_LAYER)),
    ],
)
def test_r1_limits_of_the_caller_clamp_the_start(
    limits: Constraints, units: int, expected: tuple[int, int, Clamp | None]
) -> None:
    assert begin(three_layers(), limits, units) == expected


def test_r28_consent_and_data_clamp_the_start() -> None:
    strategy = three_layers()
    asks = replace(strategy.layers[2], consent_required=True)
    guarded = replace(strategy, layers=(*strategy.layers[:2], asks))
    assert begin(guarded, Constraints(), HARD) == (1, 2, Clamp.CONSENT)
    assert begin(guarded, Constraints(consented_layers=("premium",)), HARD) == (2, 2, None)

    home = replace(strategy.layers[0].models[0], data=DataPolicy.LOCAL)
    local = replace(strategy.layers[0], models=(home,))
    private = replace(strategy, layers=(local, *strategy.layers[1:]))
    assert begin(private, Constraints(), HARD, demand=DataDemand.PRIVATE) == (0, 2, Clamp.DATA)


def test_a_layer_admits_a_task_if_any_of_its_models_may_be_used() -> None:
    strategy = three_layers()
    denied = need(strategy, request(constraints=Constraints(denied_models=("openai/mini",))))

    assert admits(strategy.layers[0], denied)
    assert not admits(
        strategy.layers[0],
        need(strategy, request(constraints=Constraints(allowed_models=("gpt",)))),
    )


def test_complexity_high_next_layer_goes_up_by_one() -> None:
    strategy = three_layers(Rules(on_complexity=OnComplexity.NEXT_LAYER))

    assert begin(strategy, Constraints(), HARD) == (1, 1, None)
    assert begin(strategy, Constraints(), EASY) == (0, 0, None)


def test_next_layer_above_the_last_is_the_last() -> None:
    strategy = catalog(
        ("only", (model("a/b", billing=Billing.FREE),), ()),
        rules=Rules(on_complexity=OnComplexity.NEXT_LAYER),
    )

    assert begin(strategy, Constraints(), HARD) == (0, 0, None)
