"""Looking again: after a wait for holds, a short 429, and a denial (R8, R14, P20)."""

from escalade_server.core.experience import Experience
from escalade_server.core.failure import FailureClass
from escalade_server.core.policy import refused
from escalade_server.core.standing import (
    Balance,
    Bench,
    Cause,
    Denial,
    Standing,
    Verdict,
    VerdictClass,
)
from escalade_server.core.walk import Choice, DeadEnd, Pause
from tests.core.builders import DAY, T0, catalog, model, three_layers
from tests.core.ladders import ONE, THREE, TWO, begun, full, ladder


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
