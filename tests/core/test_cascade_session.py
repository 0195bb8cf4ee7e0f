"""A task as a step of a session: where it starts, whom it asks first, and what it leaves (R29)."""

from dataclasses import replace

import pytest

from escalade_server.core.catalog import Layer
from escalade_server.core.commands import End, Reserve, Settle
from escalade_server.core.facts import (
    Alert,
    AlertKind,
    Assessed,
    Escalated,
    EscalationKind,
    EscalationReason,
    Selected,
)
from escalade_server.core.failure import FailureClass
from escalade_server.core.plan import plan, sentence
from escalade_server.core.rules import OnTargetExhausted, Rules
from escalade_server.core.session import NEW, Session, Sign, Step, Struggle
from escalade_server.core.standing import Standing
from escalade_server.core.task import Constraints, Request, Task
from tests.core.builders import T0, request, three_layers
from tests.core.play import FREE_FULL, Play, begun, full

SIGN = Sign(Struggle.FAILED_CHECK, 1)
GLM, M2 = "nano-gpt/default/glm", "minimax/default/m2"
ALL_PAID_FULL = full(
    "nanos/month:glm", "nanos/month:m2", "nanos/month:premium", spent=10_000_000_000
)
PARSE = Task(type="parse", files=0, tokens=0)


def step(
    before: Session = NEW, *signs: Sign, task: Task = PARSE, limits: Constraints | None = None,
    sticky: bool = True,
) -> Request:  # fmt: skip
    asked = request(task=task, constraints=limits)
    return replace(asked, session=Step("key", before, signs=signs, sticky=sticky))


def start_layer(play: Play) -> str:
    [told] = play.told(Assessed)
    return told.assessment.start_layer


def test_evidence_raises_the_start_and_says_so() -> None:
    play = begun(step(NEW, SIGN))
    play.grant()
    [seen] = play.told(Assessed)
    assert (seen.assessment.start_layer, seen.assessment.raised_by) == ("budget", 1)
    assert seen.assessment.session_note.startswith("a check of the caller failed")
    [change] = play.told(Escalated)
    assert (change.from_layer, change.to_layer) == ("free", "budget")
    assert (change.reason, change.kind) == (EscalationReason.EVIDENCE, EscalationKind.INITIAL)
    assert change.detail == seen.assessment.session_note
    play.says("Yes.")
    play.finishes()
    play.settled()
    assert "a check of the caller failed" in play.finished.report.story


def test_what_is_kept_rides_with_the_settlement_that_answers() -> None:
    play = begun(step(NEW, SIGN))
    play.grant()
    play.says("Yes.")
    play.finishes()
    tally = play.last(Settle).tally
    assert tally is not None
    assert tally.session_key == "key"
    assert tally.session == Session(
        "budget", GLM, 1, 1, signs=(1,), seen_ms=T0, until_ms=T0 + 3_600_000
    )


def test_a_task_without_an_answer_hands_it_over_with_its_ending() -> None:
    play = begun(step(NEW, SIGN))
    play.leaves()
    tally = play.last(End).tally
    assert tally is not None
    assert tally.session is not None
    assert (tally.session.raised, tally.session.clean, tally.session.model) == (1, 0, "")


def test_a_task_of_no_session_leaves_none() -> None:
    play = begun()
    play.leaves()
    tally = play.last(End).tally
    assert tally is not None
    assert tally.session is None


@pytest.mark.parametrize(
    ("limits", "raised", "raised_again"),
    [
        (Constraints(), "budget", "premium"),
        (Constraints(free_only=True), "free", "free"),
        (Constraints(highest_layer="free"), "free", "free"),
        (Constraints(highest_layer="budget"), "budget", "budget"),
        (Constraints(denied_models=("glm", "m2")), "premium", "premium"),
        (Constraints(lowest_layer="premium"), "premium", "premium"),
    ],
)
def test_a_raise_ends_at_the_callers_limits(
    limits: Constraints, raised: str, raised_again: str
) -> None:
    assert start_layer(begun(step(Session(raised=1), limits=limits))) == raised
    assert start_layer(begun(step(Session(raised=1), SIGN, limits=limits))) == raised_again


def test_a_layer_that_needs_consent_is_passed_by() -> None:
    catalog = three_layers()
    free, budget, premium = catalog.layers
    closed = Layer(budget.name, 1, 2, budget.models, consent_required=True)
    catalog = replace(catalog, layers=(free, closed, premium))
    assert start_layer(begun(step(NEW, SIGN), catalog)) == "premium"
    agreed = Constraints(consented_layers=("budget",))
    assert start_layer(begun(step(NEW, SIGN, limits=agreed), catalog)) == "budget"


def test_a_raise_comes_on_top_of_what_the_task_needs_itself() -> None:
    debug = Task(type="debug", files=0, tokens=0)
    play = begun(step(NEW, SIGN, task=debug))
    play.grant()
    assert start_layer(play) == "premium"
    [change] = play.told(Escalated)
    assert change.reason is EscalationReason.EVIDENCE
    assert "no model below declares debugging" in change.detail


def test_lowered_to_the_first_layer_is_told_although_no_layer_changes() -> None:
    play = begun(step(Session(raised=1, clean=3)))
    play.grant()
    [seen] = play.told(Assessed)
    assert (seen.assessment.start_layer, seen.assessment.raised_by) == ("free", 0)
    assert seen.assessment.session_note == "3 clean steps in the session: one layer lower again"
    assert not play.told(Escalated)


def test_lowered_above_the_first_layer_is_announced_as_such() -> None:
    play = begun(step(Session(raised=1, clean=3), task=Task(type="debug", files=0, tokens=0)))
    play.grant()
    [change] = play.told(Escalated)
    assert (change.to_layer, change.reason) == ("budget", EscalationReason.EVIDENCE)
    assert change.detail.startswith("3 clean steps")


@pytest.mark.parametrize("on_target", OnTargetExhausted)
def test_a_raised_start_that_is_exhausted_comes_down_to_its_own_layer(
    on_target: OnTargetExhausted,
) -> None:
    """Whatever is done about targets of a score: the layer below is the task's own."""
    play = Play(three_layers(Rules(on_target_exhausted=on_target)), step(NEW, SIGN))
    play.start(ALL_PAID_FULL)
    play.grant()
    [selected] = play.told(Selected)
    assert selected.model.layer == "free"
    [alert] = play.told(Alert)
    assert alert.kind is AlertKind.EXHAUSTED


def test_never_below_its_own_layer_unless_downgrades_are_allowed() -> None:
    debug = Task(type="debug", files=0, tokens=0)
    for may, layer in ((True, "free"), (False, None)):
        asked = step(NEW, SIGN, task=debug, limits=Constraints(may_downgrade=may, may_wait=False))
        play = Play(three_layers(), asked)
        orders = play.start(ALL_PAID_FULL)
        taken = [o.candidates[0].model.layer for o in orders if isinstance(o, Reserve)]
        assert taken == ([layer] if layer else [])


def first(before: Session, standing: Standing | None = None, *, sticky: bool = True) -> list[str]:
    play = Play(three_layers(), step(before, sticky=sticky))
    play.start(standing)
    return [candidate.model.key for candidate in play.last(Reserve).candidates]


MINI, FLASH = "openai/default/mini", "google/default/flash"


def test_the_sessions_model_comes_first_in_its_layer() -> None:
    assert first(NEW) == [MINI, FLASH]
    assert first(Session("free", FLASH)) == [FLASH, MINI]
    assert first(Session("free", FLASH), sticky=False) == [MINI, FLASH]


def test_stickiness_moves_no_task_to_another_layer() -> None:
    assert first(Session("premium", "openai/default/gpt")) == [MINI, FLASH]
    assert first(Session("gone", "gone")) == [MINI, FLASH]


def test_a_sticky_model_without_room_is_not_asked() -> None:
    busy = full("requests/day:google/default/flash")
    assert first(Session("free", FLASH), busy) == [MINI]
    assert first(Session("budget", M2), FREE_FULL) == [M2, GLM]


def test_a_sticky_model_that_fails_is_left_like_any_other() -> None:
    play = begun(step(Session("free", FLASH)))
    play.grant()
    play.fails(FailureClass.OUTAGE)
    assert play.last(Reserve).candidates[0].model.key == MINI


def test_a_plan_and_its_sentence_say_why_the_start_is_higher() -> None:
    found = plan(three_layers(), step(NEW, SIGN), Standing(), T0)
    assert found.selected is not None
    assert found.selected.layer == "budget"
    assert found.initial is EscalationReason.EVIDENCE
    assert "a check of the caller failed in the session: 1 layer higher" in sentence(found)
