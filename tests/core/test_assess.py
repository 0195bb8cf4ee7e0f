from dataclasses import replace

import pytest

from escalade_server.core.catalog import Catalog, Scoring, TaskType
from escalade_server.core.complexity import UNITS_PER_POINT
from escalade_server.core.facts import EscalationReason
from escalade_server.core.rules import OnComplexity, Rules
from escalade_server.core.task import Constraints, Task
from escalade_server.core.trace import Clamp
from escalade_server.core.triggers import Comparison, ComplexityTrigger
from tests.core.builders import TYPES, catalog, model, request, three_layers
from tests.core.parts import look

ABOVE_FIVE = ComplexityTrigger(Comparison.GT, 5_000_000, "task.complexity > 5", 3)
HARD = Task(type="architecture", files=10, tokens=50_000)


def pinned(start: int) -> Catalog:
    types = {**TYPES, "parse": TaskType("parse", 1, frozenset({"parsing"}), start=start)}
    return replace(three_layers(), task_types=types)


def test_r3_the_score_stands_in_the_assessment_with_its_parts() -> None:
    found = look(req=request(task=HARD))

    seen = found.assessment
    assert (seen.score_micro, seen.uncapped_micro) == (10_000_000, 10_300_000)
    assert (seen.files_micro, seen.depth_micro, seen.context_micro) == (
        3_000_000, 6_300_000, 1_000_000,
    )  # fmt: skip
    assert (seen.threshold_micro, seen.stated, seen.type) == (8_000_000, False, "architecture")
    assert (seen.target_layer, seen.start_layer, seen.clamped_by) == ("premium", "premium", None)
    assert (found.origin, found.units) == (2, 10 * UNITS_PER_POINT)
    assert (found.initial, found.initial_detail) == (
        EscalationReason.COMPLEXITY, "score 10 is above 8",
    )  # fmt: skip


def test_r3_a_stated_complexity_replaces_the_score() -> None:
    found = look(req=request(task=Task(type="parse", complexity_micro=8_000_001)))

    assert found.assessment.stated
    assert found.assessment.score_micro == 8_000_001
    assert found.assessment.start_layer == "premium"


def test_r1_an_easy_task_starts_at_the_bottom_without_a_word() -> None:
    found = look()

    assert (found.origin, found.initial_detail) == (0, "")


def test_r1_a_task_starts_where_its_skill_is_declared() -> None:
    found = look(req=request(task=Task(type="debug", files=0, tokens=0)))

    assert (found.assessment.target_layer, found.assessment.start_layer) == ("free", "budget")
    assert found.initial is EscalationReason.CAPABILITY
    assert found.initial_detail == "no model below declares debugging"


def test_r2_stated_capabilities_mean_all_of_them() -> None:
    both = catalog(
        ("free", (model("a/one", capabilities=("x",)), model("a/two", capabilities=("y",))), ()),
        ("paid", (model("a/both", capabilities=("x", "y")),), ()),
    )
    found = look(both, request(task=Task(type="parse", capabilities=("y", "x"))))

    assert found.assessment.start_layer == "paid"
    assert found.initial_detail == "no model below declares x and y"


def test_r1_a_pinned_start_says_so() -> None:
    found = look(pinned(2), request(task=Task(type="parse", capabilities=("parsing",))))

    assert found.assessment.start_layer == "budget"
    assert found.initial_detail == "parse tasks are pinned to start here"


def test_r1_the_callers_lowest_layer_is_a_constraint() -> None:
    found = look(req=request(constraints=Constraints(lowest_layer="budget")))

    assert found.assessment.clamped_by is Clamp.LOWEST_LAYER
    assert found.initial is EscalationReason.CONSTRAINT
    assert found.initial_detail == "the caller allows no lower layer"


@pytest.mark.parametrize("kind", ["architecture", "whatever"])
def test_r1_a_hard_task_kept_from_the_top_still_jumps_for_its_score(kind: str) -> None:
    task = Task(type=kind, complexity_micro=9_000_000)
    found = look(req=request(task=task, constraints=Constraints(highest_layer="budget")))

    assert found.assessment.clamped_by is Clamp.HIGHEST_LAYER
    assert (found.assessment.target_layer, found.assessment.start_layer) == ("premium", "budget")
    assert found.initial is EscalationReason.COMPLEXITY
    assert found.initial_detail == "score 9 is above 8"


def test_a_jump_without_a_threshold_is_called_high() -> None:
    rules = Rules(on_complexity=OnComplexity.JUMP)
    named = replace(three_layers(rules), scoring=Scoring(threshold_micro=None))
    top = replace(named.layers[2], triggers=(ABOVE_FIVE,))
    found = look(replace(named, layers=(*named.layers[:2], top)), request(task=HARD))

    assert found.initial_detail == "score 10 is high"
