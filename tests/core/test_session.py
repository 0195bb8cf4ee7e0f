"""Steps of a session: raised by a sign once, never above what is open, lowered after 3 (R29)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core import session as s
from escalade_server.core.session import CLEAN_STEPS, NEW, Session, Sign, Step, Struggle

TOP = 2


def sign(number: int, what: Struggle = Struggle.FAILED_CHECK) -> Sign:
    return Sign(what, number)


def step(before: Session, *signs: Sign, room: int = TOP) -> s.Turn:
    return s.begin(Step("key", before, signs=signs), room)


def done(turn: s.Turn, struggle: Struggle | None = None) -> Session:
    """End a step that was answered, as ``signs.after`` does."""
    kept = turn.session
    clean = kept.clean + (1 if struggle is None and kept.raised else 0)
    return replace(kept, clean=clean, struggle=struggle)


def played(before: Session, steps: int) -> tuple[list[int], Session]:
    """Play steps without a sign; answer by how much each was raised."""
    raised = []
    for _ in range(steps):
        turn = step(before)
        raised.append(turn.raised)
        before = done(turn)
    return raised, before


def test_a_sign_raises_this_step_and_the_next_two() -> None:
    turn = step(NEW, sign(1))
    assert (turn.raised, turn.lowered, turn.why) == (1, False, Struggle.FAILED_CHECK)
    raised, after = played(done(turn), 5)
    assert raised == [1, 1, 0, 0, 0]
    assert (after.raised, after.clean) == (0, 0)


def test_two_signs_one_after_the_other_raise_by_two_and_come_down_one_by_one() -> None:
    first = done(step(NEW, sign(1)))
    second = step(first, sign(2))
    assert second.raised == 2
    raised, _ = played(done(second), 7)
    assert raised == [2, 2, 1, 1, 1, 0, 0]


def test_several_signs_at_one_step_raise_it_once() -> None:
    struggled = replace(NEW, struggle=Struggle.GATE_FAILED)
    assert step(struggled, sign(1), sign(2), sign(1)).raised == 1


def test_one_sign_never_raises_twice() -> None:
    before = done(step(NEW, sign(1)))
    for expected in (1, 1, 0, 0):
        turn = step(before, sign(1))
        assert (turn.raised, turn.why) == (expected, None)
        before = done(turn)


def test_what_the_last_step_showed_counts_once() -> None:
    turn = step(replace(NEW, struggle=Struggle.OUTPUT_CUT))
    assert (turn.raised, turn.why, turn.session.struggle) == (1, Struggle.OUTPUT_CUT, None)


def test_a_new_sign_puts_the_count_of_clean_steps_back() -> None:
    _, before = played(done(step(NEW, sign(1))), 1)
    assert before.clean == 2
    full = step(before, sign(2), room=1)
    assert (full.raised, full.session.raised, full.session.clean) == (1, 1, 0)


def test_without_room_nothing_is_raised_and_nothing_kept_of_it() -> None:
    turn = step(NEW, sign(1), room=0)
    assert (turn.raised, turn.session.raised) == (0, 0)
    assert turn.session.signs == (1,)


def test_a_step_with_narrow_limits_lowers_nothing_for_those_after_it() -> None:
    before = done(step(NEW, sign(1)))
    narrow = step(before, room=0)
    assert (narrow.raised, narrow.lowered) == (0, False)
    assert step(done(narrow)).raised == 1


def test_lowered_is_told_once_and_only_if_it_is_felt() -> None:
    ready = Session(raised=1, clean=CLEAN_STEPS)
    assert step(ready).lowered
    assert not step(done(step(ready))).lowered
    assert not step(ready, room=0).lowered
    assert not step(ready, sign(1)).lowered


def test_a_session_that_heeds_no_signs_keeps_its_model_only() -> None:
    before = Session("low", "m", 2, 1, Struggle.GATE_FAILED, 5, (7,))
    turn = s.begin(Step("key", before, signs=(sign(1),), heeds=False), TOP)
    assert (turn.raised, turn.lowered, turn.why) == (0, False, None)
    assert turn.session == Session("low", "m")


def test_the_oldest_signs_are_forgotten() -> None:
    before = NEW
    for number in range(s.SIGNS_MAX + 5):
        before = done(step(before, sign(number)))
    assert before.signs == tuple(range(5, s.SIGNS_MAX + 5))


NOTES = [
    (step(NEW), ""),
    (step(NEW, sign(1)), "a check of the caller failed in the session: 1 layer higher"),
    (
        step(Session(raised=1, clean=1)),
        "the session struggled: 1 layer higher, for 2 steps more",
    ),
    (
        step(Session(raised=2, clean=2)),
        "the session struggled: 2 layers higher, for 1 step more",
    ),
    (
        step(Session(raised=1, clean=3)),
        "3 clean steps in the session: one layer lower again",
    ),
    (
        step(Session(raised=2, clean=3)),
        "3 clean steps in the session: one layer lower again, still 1 layer higher than without it",
    ),
]


@pytest.mark.parametrize(("turn", "note"), NOTES)
def test_it_is_said_in_words(turn: s.Turn, note: str) -> None:
    assert s.note_of(turn) == note


def test_every_struggle_has_its_words() -> None:
    assert set(s.IN_WORDS) == set(Struggle)


ROUND = st.tuples(
    st.lists(st.integers(1, 6).map(sign), max_size=3),
    st.integers(0, 3),
    st.sampled_from([None, None, None, Struggle.GATE_FAILED]),
    st.booleans(),
)


@given(st.lists(ROUND, max_size=60))
def test_any_session_holds_to_its_rules(
    rounds: list[tuple[list[Sign], int, Struggle | None, bool]],
) -> None:
    before, seen, calm = NEW, set[int](), 0
    for signs, room, struggle, answered in rounds:
        turn = step(before, *signs, room=room)
        new = [each for each in signs if each.id not in seen]
        news = bool(new) or before.struggle is not None
        seen |= {each.id for each in signs}
        assert 0 <= turn.raised <= room, "never above the limits"
        assert turn.session.raised <= before.raised + 1, "by one layer at most"
        assert news or turn.session.raised <= before.raised, "never twice for one sign"
        if news:
            assert turn.session.raised == before.raised + (before.raised < room)
            calm = 0
        elif before.raised:
            falls = calm >= CLEAN_STEPS
            assert turn.session.raised == before.raised - falls, "after exactly three"
            calm = 0 if falls else calm
        if answered:
            before = done(turn, struggle)
            calm += 1 if struggle is None and before.raised else 0
        else:
            before = replace(turn.session, struggle=struggle)
