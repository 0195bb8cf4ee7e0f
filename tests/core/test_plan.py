"""The plan of a task, against shared state as it is (R31)."""

from dataclasses import replace

import pytest

from escalade_server.core.catalog import Catalog
from escalade_server.core.facts import EscalationReason
from escalade_server.core.failure import FailureClass
from escalade_server.core.plan import Plan, is_ok, plan, points, sentence
from escalade_server.core.standing import Bench, Cause, Standing
from escalade_server.core.task import Constraints, Delivery, Request, Task
from tests.core.builders import T0, request, three_layers
from tests.core.play import FREE_FULL

QUOTA_BENCH = Bench(T0 + 60_000, FailureClass.QUOTA_WINDOW, "used up")


def planned(
    req: Request | None = None, standing: Standing | None = None, catalog: Catalog | None = None
) -> Plan:
    return plan(catalog or three_layers(), req or request(), standing or Standing(), T0)


def test_r31_every_model_is_listed_in_the_order_of_the_walk() -> None:
    found = planned()

    assert [row.model.id for row in found.rows] == ["mini", "flash", "glm", "m2", "gpt"]
    assert found.selected is found.rows[0].model
    assert (found.initial, found.initial_detail) == (None, "")


def test_the_worst_case_of_a_free_model_is_what_it_is_worth() -> None:
    free, paid = planned().rows[0], planned().rows[2]

    assert free.list_nanos == paid.list_nanos > 0
    assert (free.worst_nanos, paid.worst_nanos) == (0, paid.list_nanos)


def test_r31_what_stands_against_a_model_is_told_with_its_end() -> None:
    full = planned(standing=FREE_FULL)
    benched = planned(standing=Standing(benches={"openai/default/mini": QUOTA_BENCH}))

    assert [row.verdict.cause for row in full.rows[:2]] == [Cause.WINDOW_FULL] * 2
    assert full.rows[0].verdict.until_ms is not None
    assert full.selected is full.rows[2].model
    assert [is_ok(row.verdict) for row in full.rows] == [False, False, True, True, True]
    assert benched.rows[0].verdict.until_ms == QUOTA_BENCH.until_ms
    assert benched.selected is benched.rows[1].model


def test_layers_that_the_walk_may_not_come_to_are_listed_last() -> None:
    limits = Constraints(highest_layer="free", may_downgrade=False)
    found = planned(request(task=Task(type="debug"), constraints=limits))

    assert [row.model.id for row in found.rows] == ["mini", "flash", "glm", "m2", "gpt"]
    assert [row.verdict.cause for row in found.rows[2:]] == [Cause.CONSTRAINT] * 3


def test_r32_the_callers_own_bounds_are_the_worst_case() -> None:
    asked = replace(
        request(), delivery=Delivery.ROUTE, messages=(), input_tokens=1_000, output_tokens_max=100
    )

    assert planned(asked).rows[2].list_nanos == 1_000 * 150 + 100 * 600


@pytest.mark.parametrize(
    ("task", "limits", "standing", "words"),
    [
        (Task("parse", 0, 0), None, None,
         ("Score 0.7 (files 0 + depth 0.7 + context 0) is not above 8: a task of type parse starts"
         " in free, and openai/mini is asked first (free).")),
        (Task("parse", 0, 0), None, FREE_FULL,
         "and nano-gpt/glm in budget is asked first (at most $0.0025)."),
        (Task("debug", 0, 0), None, None,
         "starts in budget (no model below declares debugging), and"),
        (Task("debug", 0, 0), Constraints(free_only=True), None,
         "starts in free (held there by free_only), and openai/mini is asked first (free)."),
        (Task("parse", complexity_micro=9_000_000), None, None,
         "Score 9 is above 8: a task of type parse starts in premium, and openai/gpt"),
        (Task("parse", 0, 0), Constraints(allowed_models=("none",)), None,
         "starts in free, but no model can take it."),
    ],
)  # fmt: skip
def test_it_is_told_in_one_sentence(
    task: Task, limits: Constraints | None, standing: Standing | None, words: str
) -> None:
    found = planned(request(task=task, constraints=limits), standing)

    assert words in sentence(found)


def test_without_a_threshold_none_is_named() -> None:
    made = three_layers()
    calm = replace(made, scoring=replace(made.scoring, threshold_micro=None))

    assert "above" not in sentence(planned(catalog=calm))


def test_a_jump_is_the_reason_of_the_start() -> None:
    found = planned(request(task=Task("parse", complexity_micro=9_000_000)))

    assert found.initial is EscalationReason.COMPLEXITY


def test_r3_points_have_at_most_six_decimals() -> None:
    assert (points(8_000_000), points(700_060)) == (8, 0.70006)
    assert isinstance(points(8_000_000), int)


def test_a_plan_changes_nothing() -> None:
    standing = Standing(benches={"x": Bench(T0, QUOTA_BENCH.cls, "")})

    assert planned(standing=standing) == planned(standing=standing)
