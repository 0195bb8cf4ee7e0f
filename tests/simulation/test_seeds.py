"""Seeds that must hold: 400 in a row, all that ever failed, and worlds that are rarely drawn."""

from collections import Counter as Tally
from pathlib import Path

import pytest

from escalade_server.core.facts import ErrorReason, EscalationReason
from escalade_server.core.failure import FailureClass
from escalade_server.simulation.chance import chance
from escalade_server.simulation.trial import Trial, Verdict, run
from escalade_server.simulation.worlds import Kind, chaos, outage
from tests.simulation.__main__ import Found, many, one, told

SEEDS = 400
FAILED_ONCE = [
    int(line.split()[0])
    for line in Path(__file__).with_name("seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
NEVER_DRAWN = {
    # Of what is not built yet, or not the business of a single task.
    "failed request_invalid", "failed request_in_progress", "failed already_answered",
    "failed too_many_waiters", "failed draining", "failed bug",
}  # fmt: skip


def test_seeds_in_a_row_hold_and_meet_everything() -> None:
    met: Tally[str] = Tally()
    for seed in range(SEEDS):
        verdict = run(seed)
        assert not verdict.violation, told_of(verdict)
        met.update(verdict.figures)
    reasons = {f"failed {reason.value}" for reason in ErrorReason}
    reasons |= {f"escalated {reason.value}" for reason in EscalationReason}
    reasons |= {f"failure {cls.value}" for cls in FailureClass}
    reasons |= {"doubtful", "retracted", "waiting", "lies", "stood in", f"kind {Kind.CROWD.value}"}

    assert reasons - set(met) == NEVER_DRAWN


@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_a_seed_that_failed_once_holds(seed: int) -> None:
    verdict = run(seed)

    assert not verdict.violation, told_of(verdict)


@pytest.mark.parametrize("kind", [Kind.OUTAGE, Kind.BLACKOUT], ids=lambda kind: kind.value)
def test_providers_go_down_and_heal(kind: Kind) -> None:
    opened = 0
    for seed in range(8):
        trial = Trial(outage(seed, chance(seed, 0), kind))
        verdict = trial.run()
        assert not verdict.violation, f"{kind} {seed}: {verdict.violation}"
        opened += trial.resilience.opened_us > 0

    assert opened == 8, "circuits were at work"


def test_a_crowd_of_500() -> None:
    verdict = Trial(chaos(1, chance(1, 0), Kind.CROWD, 500)).run()

    assert not verdict.violation
    assert verdict.figures["tasks"] == 500


def test_the_same_seed_is_the_same_run() -> None:
    assert run(7).lines == run(7).lines


def test_the_command_prints_the_trace_of_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert one(3) == 0

    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(run(3).lines) + 1
    assert "task 1    Started -> Assessed" in printed[0]
    assert printed[-1] == "seed 3: every promise held"


def test_the_command_counts_and_says_how_to_play_a_seed_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert many(0, 4, 1) == 0
    assert "seeds 0 to 3: 0 violations" in capsys.readouterr().out
    assert told(Found(12, "NoSplice: x", ("line",))).endswith(
        "NoSplice: x\nagain: make sim SEED=12"
    )


def told_of(verdict: Verdict) -> str:
    return f"{verdict.violation}\nagain: make sim SEED={verdict.seed}"
