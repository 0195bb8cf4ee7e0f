from dataclasses import replace

import pytest

from escalade_server.core import walk
from escalade_server.core.catalog import Billing, Catalog
from escalade_server.core.experience import Experience
from escalade_server.core.facts import EscalationReason
from escalade_server.core.failure import FailureClass
from escalade_server.core.policy import refused
from escalade_server.core.rules import OnRateLimit, OnTargetExhausted, Rules
from escalade_server.core.standing import (
    Balance,
    Bench,
    Cause,
    Circuit,
    CircuitState,
    Denial,
    Standing,
    Verdict,
    VerdictClass,
)
from escalade_server.core.task import Constraints, Request, Task
from escalade_server.core.triggers import Comparison, ComplexityTrigger, Condition, LayerTrigger
from escalade_server.core.walk import (
    CAUSE_REASON,
    FAILURE_REASON,
    Choice,
    DeadEnd,
    Pause,
    Walk,
    reason_of,
)
from tests.core.builders import DAY, T0, catalog, model, per_day, request, three_layers
from tests.core.parts import look, need

HARD = Task(type="architecture", files=10, tokens=50_000)
MINI, FLASH = "requests/day:openai/default/mini", "requests/day:google/default/flash"


def begun(strategy: Catalog, req: Request | None = None, seen: Experience | None = None) -> Walk:
    asked = req or request()
    return walk.begin(strategy, asked, look(strategy, asked), seen or Experience())


def full(*keys: str, spent: int = 50, held: int = 0) -> dict[str, Balance]:
    return {key: Balance("today", spent, held, DAY) for key in keys}


def ladder(*triggers: LayerTrigger | ComplexityTrigger, rules: Rules | None = None) -> Catalog:
    """Make four layers of one model each; ``triggers`` stand on the third."""
    return catalog(
        ("one", (model("a/1", counters=(per_day("a", "1", 50),)),), ()),
        ("two", (model("b/2", counters=(per_day("b", "2", 50),)),), ()),
        ("three", (model("c/3", counters=(per_day("c", "3", 50),)),), triggers),
        ("four", (model("d/4", capabilities=("architecture",)),), ()),
        rules=rules,
    )


ONE, TWO, THREE = (f"requests/day:{p}/default/{n}" for p, n in (("a", 1), ("b", 2), ("c", 3)))


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


def test_r14_holds_are_looked_at_again_until_patience_ends() -> None:
    found = begun(ladder())
    held = Standing(full(ONE, spent=0, held=50))

    first = found.step(held, T0)
    assert isinstance(first, Pause)
    assert (first.until_ms, first.earliest_ms) == (T0 + 25, T0 + 5_000)
    last = found.step(held, T0 + 4_990)
    assert isinstance(last, Pause)
    assert last.until_ms == T0 + 5_000

    then = found.step(held, T0 + 5_000)
    assert isinstance(then, Choice)
    assert then.layer.name == "two"


def short_429(until_ms: int) -> Standing:
    bench = Bench(until_ms, FailureClass.RATE_SHORT, "slow down")
    return Standing(benches={"a/default/1": bench})


def test_r8_a_short_429_is_sat_out_once() -> None:
    found = begun(ladder())
    pause = found.step(short_429(T0 + 2_000), T0)
    assert pause == Pause(T0 + 2_000, T0 + 2_000, VerdictClass.RATE, "one: its provider's pace")

    again = found.step(short_429(T0 + 4_000), T0 + 2_000)

    assert isinstance(again, Choice)
    assert again.layer.name == "two"


def test_r8_a_longer_429_is_not_waited_for() -> None:
    found = begun(ladder()).step(short_429(T0 + 2_001), T0)

    assert isinstance(found, Choice)
    assert found.layer.name == "two"


def test_r8_of_several_429s_only_the_soonest_gets_another_try() -> None:
    seen = Experience(eventful=True)
    for position, until_ms in ((0, T0 + 1_500), (1, T0 + 500)):
        seen.tried[position] = Verdict(
            VerdictClass.TRIED, Cause.FAILED_HERE, "", until_ms, FailureClass.RATE_SHORT
        )
    pair = catalog(("only", (model("a/1"), model("b/2")), ()))

    found = begun(pair, seen=seen)
    pause = found.step(Standing(), T0)

    assert isinstance(pause, Pause)
    assert pause.until_ms == T0 + 500
    assert isinstance(found.step(Standing(), T0 + 499), DeadEnd), "who cannot wait goes on without"
    again = found.step(Standing(), T0 + 500)
    assert isinstance(again, Choice)
    assert [c.model.id for c in again.candidates] == ["2"]
    assert list(seen.tried) == [0]


def test_p20_layers_that_were_passed_are_told_after_a_denial() -> None:
    found = begun(ladder())
    choice = found.step(Standing(full(ONE)), T0)
    assert isinstance(choice, Choice)
    assert choice.layer.name == "two"
    denied = denial(choice)

    again = found.step(Standing(full(ONE, TWO)), T0, refused(choice.candidates, (denied,)))

    assert isinstance(again, Choice)
    assert again.layer.name == "three"
    assert [s.layer for s in again.skips] == ["one", "two"]
    found.granted(again, ())
    after = found.step(Standing(full(ONE, TWO, THREE)), T0)
    assert isinstance(after, Choice)
    assert [s.layer for s in after.skips] == ["three"], "each choice tells what it passed over"


def denial(choice: Choice) -> Denial:
    each = choice.candidates[0].model
    balance = Balance("today", 50, 0, DAY)
    return Denial(
        each.position, each.counters[0].key, balance, 1, held_only=False, never_fits=False
    )


def test_r14_layers_that_were_passed_are_told_after_a_wait() -> None:
    found = begun(ladder())
    busy = full(ONE) | full(TWO, spent=0, held=50)
    assert isinstance(found.step(Standing(busy), T0), Pause)

    choice = found.step(Standing(full(ONE)), T0 + 25)

    assert isinstance(choice, Choice)
    assert choice.layer.name == "two"
    assert [s.layer for s in choice.skips] == ["one"]


def test_a_denial_beats_what_is_known() -> None:
    found = begun(three_layers())
    choice = found.step(Standing(), T0)
    assert isinstance(choice, Choice)

    again = found.step(Standing(), T0, refused(choice.candidates, (denial(choice),)))

    assert isinstance(again, Choice)
    assert [c.model.id for c in again.candidates] == ["flash"]


def test_free_only_never_steps_into_a_paid_layer() -> None:
    paid = catalog(
        ("free", (model("a/1"),), ()), ("paid", (model("b/2", billing=Billing.METERED),), ())
    )
    req = request(constraints=Constraints(free_only=True))

    found = begun(paid, req).step(Standing(circuits=_open("a")), T0)

    assert isinstance(found, DeadEnd)
    assert need(paid, req).free_only
