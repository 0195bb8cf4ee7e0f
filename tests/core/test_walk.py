from dataclasses import replace

import pytest

from escalade_server.core.catalog import Billing
from escalade_server.core.experience import Experience
from escalade_server.core.facts import EscalationReason
from escalade_server.core.failure import FailureClass
from escalade_server.core.rules import OnRateLimit, OnTargetExhausted, Rules
from escalade_server.core.standing import (
    Bench,
    Cause,
    Circuit,
    CircuitState,
    Standing,
    Verdict,
    VerdictClass,
)
from escalade_server.core.task import Constraints, Task
from escalade_server.core.triggers import Comparison, ComplexityTrigger, Condition, LayerTrigger
from escalade_server.core.walk import CAUSE_REASON, FAILURE_REASON, Choice, DeadEnd, reason_of
from tests.core.builders import DAY, T0, catalog, model, request, three_layers
from tests.core.ladders import ONE, THREE, TWO, begun, full, ladder
from tests.core.parts import need

HARD = Task(type="architecture", files=10, tokens=50_000)
MINI, FLASH = "requests/day:openai/default/mini", "requests/day:google/default/flash"


@pytest.mark.parametrize("cls", FailureClass)
def test_r20_every_failure_gives_a_reason(cls: FailureClass) -> None:
    assert FAILURE_REASON[cls] in EscalationReason
    assert len(FAILURE_REASON) == len(FailureClass)


@pytest.mark.parametrize("cause", Cause)
def test_r20_every_cause_gives_a_reason(cause: Cause) -> None:
    assert CAUSE_REASON[cause] in EscalationReason
    assert len(CAUSE_REASON) == len(Cause)


def test_r20_the_reason_of_a_verdict_is_its_failure_before_its_cause() -> None:
    rejected = Verdict(VerdictClass.REJECTED, Cause.GATE_FAILED)
    cooled = Verdict(VerdictClass.MONEY, Cause.COOLDOWN, failure=FailureClass.BALANCE)
    full_ = Verdict(VerdictClass.RATE, Cause.WINDOW_FULL)

    assert reason_of(rejected) is EscalationReason.QUALITY
    assert reason_of(cooled) is EscalationReason.CAP
    assert reason_of(full_) is EscalationReason.RATE_LIMIT


@pytest.mark.parametrize(
    ("rule", "word", "order"),
    [
        (OnTargetExhausted.DOWNGRADE, None, [2, 3, 1, 0]),
        (OnTargetExhausted.DOWNGRADE, False, [2, 3]),
        (OnTargetExhausted.FAIL, None, [2, 3]),
        (OnTargetExhausted.WAIT, None, [2, 3]),
        (OnTargetExhausted.FAIL, True, [2, 3, 1, 0]),
    ],
)
def test_r10_up_first_then_down_from_near_to_far(
    rule: OnTargetExhausted, order: list[int], *, word: bool | None
) -> None:
    strategy = ladder(rules=Rules(on_target_exhausted=rule))
    pinned = replace(strategy.task_types["parse"], start=3)
    strategy = replace(strategy, task_types={"parse": pinned})

    found = begun(strategy, request(constraints=Constraints(may_downgrade=word)))

    assert list(found.order) == order


def test_r10_never_below_the_callers_lowest_layer() -> None:
    req = request(task=HARD, constraints=Constraints(lowest_layer="three"))
    benched = {"d": Bench(DAY, FailureClass.OUTAGE, "down")}
    standing = Standing(full(THREE), benched)

    found = begun(ladder(), req).step(standing, T0)

    assert isinstance(found, DeadEnd)
    why = {s.model.id: s.verdict.cause for s in found.skips if s.model}
    assert why == {
        "4": Cause.COOLDOWN, "3": Cause.WINDOW_FULL,
        "2": Cause.CONSTRAINT, "1": Cause.CONSTRAINT,
    }  # fmt: skip


def test_r10_never_below_a_layer_whose_answer_failed_its_gate() -> None:
    seen = Experience()
    found = begun(ladder(), request(task=HARD), seen)
    assert isinstance(found.step(Standing(), T0), Choice)
    seen.reject(3)

    end = found.step(Standing(), T0)

    assert isinstance(end, DeadEnd)
    assert {s.layer for s in end.skips} == {"four"}


def test_a_layer_is_left_only_when_nobody_is_ok() -> None:
    found = begun(three_layers())
    first = found.step(Standing(full(MINI)), T0)
    assert isinstance(first, Choice)
    assert [c.model.id for c in first.candidates] == ["flash"]

    second = begun(three_layers()).step(Standing(full(MINI, FLASH)), T0)

    assert isinstance(second, Choice)
    assert second.layer.name == "budget"
    assert [s.model.id for s in second.skips if s.model] == ["mini", "flash"]


def test_r24_others_remain_in_the_layer_or_above() -> None:
    strategy = three_layers()
    gone = {key: Bench(DAY, FailureClass.OUTAGE, "") for key in ("nano-gpt", "minimax", "openai")}

    both = begun(strategy).step(Standing(), T0)
    above = begun(strategy).step(Standing(full(MINI)), T0)
    none = begun(strategy).step(Standing(benches=gone), T0)

    assert isinstance(both, Choice)
    assert both.others_remain
    assert isinstance(above, Choice)
    assert above.others_remain
    assert isinstance(none, Choice)
    assert not none.others_remain


IS_FULL = LayerTrigger("two", Condition.RATE_LIMIT_EXCEEDED, "two.rate_limit_exceeded", 9)
HAS_SPENT = LayerTrigger("two", Condition.BUDGET_EXHAUSTED, "two.budget_exhausted", 9)
IS_EASY = ComplexityTrigger(Comparison.LE, 3_000_000, "task.complexity <= 3", 10)


@pytest.mark.parametrize(
    ("triggers", "layer"),
    [
        ((), "three"),
        ((IS_FULL,), "three"),
        ((HAS_SPENT,), "four"),
        ((HAS_SPENT, IS_FULL), "three"),
        ((HAS_SPENT, IS_EASY), "three"),
    ],
)
def test_r6_a_trigger_admits_a_step_up(
    triggers: tuple[LayerTrigger | ComplexityTrigger, ...], layer: str
) -> None:
    found = begun(ladder(*triggers)).step(Standing(full(ONE, TWO)), T0)

    assert isinstance(found, Choice)
    assert found.layer.name == layer
    passed = [s for s in found.skips if s.model is None]
    assert [s.verdict.cls for s in passed] == [VerdictClass.TRIGGER_NOT_MET] * (layer == "four")


def test_r6_the_walk_that_ends_by_a_trigger_names_its_line() -> None:
    barred = ladder(HAS_SPENT)
    barred = replace(barred, layers=barred.layers[:3])

    end = begun(barred).step(Standing(full(ONE, TWO)), T0)

    assert isinstance(end, DeadEnd)
    assert end.untriggered == "three opens by `two.budget_exhausted` (line 9), which does not hold"


def test_r6_starts_and_downgrades_enter_without_asking() -> None:
    strategy = ladder(HAS_SPENT)
    hard = request(task=HARD)
    down = begun(strategy, hard).step(Standing(circuits=_open("d")), T0)
    assert isinstance(down, Choice)
    assert down.layer.name == "three"

    pinned = replace(strategy.task_types["parse"], start=3)
    begin = begun(replace(strategy, task_types={"parse": pinned})).step(Standing(), T0)
    assert isinstance(begin, Choice)
    assert begin.layer.name == "three"


def _open(provider: str) -> dict[str, Circuit]:
    return {provider: Circuit(CircuitState.OPEN, DAY)}


def test_r6_a_trigger_may_ask_about_a_layer_that_the_walk_did_not_come_through() -> None:
    asks_one = LayerTrigger("one", Condition.EXHAUSTED, "one.exhausted", 9)
    pinned = replace(three_layers().task_types["parse"], start=2)
    strategy = replace(ladder(asks_one), task_types={"parse": pinned})

    with_room = begun(strategy).step(Standing(full(TWO)), T0)
    without = begun(strategy).step(Standing(full(ONE, TWO)), T0)

    assert isinstance(with_room, Choice)
    assert with_room.layer.name == "four"
    assert isinstance(without, Choice)
    assert without.layer.name == "three"


def test_r7_next_model_does_not_leave_a_layer_out_for_rate() -> None:
    rules = Rules(on_rate_limit=OnRateLimit.NEXT_MODEL)

    barred = begun(ladder(rules=rules)).step(Standing(full(ONE)), T0)
    down = begun(ladder(rules=rules)).step(Standing(circuits=_open("a")), T0)

    assert isinstance(barred, DeadEnd)
    assert {s.layer for s in barred.skips} == {"one"}
    assert isinstance(down, Choice)
    assert down.layer.name == "two"


def test_free_only_never_steps_into_a_paid_layer() -> None:
    paid = catalog(
        ("free", (model("a/1"),), ()), ("paid", (model("b/2", billing=Billing.METERED),), ())
    )
    req = request(constraints=Constraints(free_only=True))

    found = begun(paid, req).step(Standing(circuits=_open("a")), T0)

    assert isinstance(found, DeadEnd)
    assert need(paid, req).free_only
