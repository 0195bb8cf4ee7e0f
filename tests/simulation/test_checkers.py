"""Every checker can fail: for each a deliberate mistake, which it alone is there to see."""

from collections.abc import Callable

import pytest

from escalade_server.core.commands import Command
from escalade_server.core.events import Event
from escalade_server.simulation.chance import chance
from escalade_server.simulation.checkers import Checker
from escalade_server.simulation.driver import Play
from escalade_server.simulation.trial import Trial, checkers
from escalade_server.simulation.worlds import Kind, World, outage, world
from tests.simulation import bends

History = Callable[[tuple[Command, ...], int], tuple[Command, ...]]
Code = Callable[[pytest.MonkeyPatch], None]
SEEDS = range(120)
STORY: list[tuple[str, History]] = [
    ("OneEnding", bends.end_twice),
    ("ChangesAnnounced", bends.silent_change),
    ("ChangesAnnounced", bends.double_change),
    ("NoSplice", bends.no_retraction),
    ("NoSplice", bends.lost_text),
    ("AttemptsBounded", bends.never_settled),
    ("SettledOnce", bends.settled_twice),
    ("InstantsAhead", bends.past_instant),
    ("ReportsTrue", bends.wrong_sum),
]
CODE: list[tuple[str, Code]] = [
    ("CircuitsRespected", bends.circuits_unseen),
    ("CircuitsRespected", bends.late_grant),
    ("CircuitsRespected", bends.cooldown_ignored),
    ("LimitsRespected", bends.limits_ignored),
    ("SettledOnce", bends.late_news_accepted),
    ("EndsInTime", bends.slow_timer),
    ("GatesHold", bends.gates_leak),
    ("GatesHold", bends.layer_not_left),
    ("AnswersAreWhole", bends.cut_is_answer),
    ("WaitsHold", bends.waits_unasked),
    ("SessionsHold", bends.session_raised_for_nothing),
    ("SessionsHold", bends.session_beyond_its_limits),
    ("SessionsHold", bends.session_raised_in_silence),
    ("Trial: not ended", bends.no_timer),
    ("Trial: ", bends.answered_before_durable),
    ("Auditor: still held", bends.leak_of_holds),
    ("Auditor: still held", bends.leak_on_cancel),
    ("Auditor: ", bends.reserve_without_check),
    ("Auditor: ", bends.holds_not_released),
    ("Auditor: ", bends.booked_twice),
    ("Auditor: ", bends.bound_too_low),
    ("BilledIsBooked", bends.cut_for_nothing),
    ("BilledIsBooked", bends.billed_by_half),
    ("BilledIsBooked", bends.doubt_forgotten),
]


class Bent(Trial):
    """A trial whose checkers are shown a bent history."""

    def __init__(self, of: World, bend: History, make: Callable[[World], list[Checker]]) -> None:
        super().__init__(of, make)
        self._bend = bend

    def look(self, play: Play, event: Event, commands: tuple[Command, ...]) -> None:
        super().look(play, event, self._bend(commands, self.agenda.now_ms()))


def only(name: str) -> Callable[[World], list[Checker]]:
    """Make the one checker of this name; none for what trials see themselves."""
    return lambda of: [each for each in checkers(of) if type(each).__name__ == name]


@pytest.mark.parametrize(("name", "bend"), STORY, ids=lambda each: getattr(each, "__name__", each))
def test_a_bent_history_is_seen(name: str, bend: History) -> None:
    found = (Bent(world(seed), bend, only(name)).run().violation for seed in SEEDS)

    assert next(filter(None, found), "").startswith(f"{name}: ")


@pytest.mark.parametrize(("name", "bend"), CODE, ids=lambda each: getattr(each, "__name__", each))
def test_a_mistake_in_the_code_is_seen(
    name: str, bend: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    bend(monkeypatch)
    found = (Trial(world(seed), only(name)).run().violation for seed in SEEDS)

    assert any(violation.startswith(name) for violation in found)


@pytest.mark.parametrize(
    ("kind", "bend", "words"),
    [
        (Kind.OUTAGE, bends.circuits_without_effect, "attempts for"),
        (Kind.BLACKOUT, bends.breaker_backs_off_for_minutes, "answered 15 s after healing"),
        (Kind.BLACKOUT, bends.breaker_never_closes, "answered 15 s after healing"),
    ],
    ids=["attempts", "backs_off", "never_closes"],
)
def test_wasted_attempts_and_slow_recovery_are_seen(
    kind: Kind, bend: Code, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bend(monkeypatch)
    worlds = (outage(seed, chance(seed, 0), kind) for seed in range(10))
    found = (Trial(of, only("")).run().violation for of in worlds)

    assert words in next(filter(None, found), "")


def test_every_checker_is_bent() -> None:
    names = {type(each).__name__ for each in checkers(world(0))}

    assert names <= {name for name, _ in [*STORY, *CODE]}
