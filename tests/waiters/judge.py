"""Holds what callers, providers, ledger and webhook say against each other."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import escalade
from tests.waiters.queue import AGENTS, OPEN, Row, Seen

INVERTED = 0.25
"""Whoever is away, as its stream was cut, delays nobody (ADR 8), and may be overtaken meanwhile.

So of all pairs of an agent's tasks no more than this share goes the younger first; without any
order it would be half of them.
"""
SHARE = 0.35
"""While all three agents wait, each has a third of what is admitted, within this much of it."""
ORDERLY_S = 10.0
"""Where streams live shorter, each is away for much of the time, and order is a matter of luck."""
STATUS_S = 1.0


def first_admitted(seen: Seen) -> list[Row]:
    """Of each task its first call after its wait began, in order of admission."""
    found: dict[str, Row] = {}
    since = {task.id: min(task.since, default=0) for task in seen.tasks}
    for row in (row for row in seen.rows if row.admitted_ms > since[row.id]):
        found.setdefault(row.id, row)
    return list(found.values())


def inverted(seen: Seen) -> float:
    """Of all pairs of one agent's tasks, the share in which the younger went first."""
    since = {task.id: min(task.since, default=0) for task in seen.tasks}
    wrong = pairs = 0
    for agent in AGENTS:
        went = [since[row.id] for row in first_admitted(seen) if row.agent == agent]
        both = [one > other for one, other in combinations(went, 2)]
        wrong, pairs = wrong + sum(both), pairs + len(both)
    return wrong / max(pairs, 1)


def shares(seen: Seen) -> dict[str, float]:
    """What each agent had of the admissions while tasks of all three waited."""
    left = Counter(task.agent for task in seen.tasks)
    had: Counter[str] = Counter()
    for row in first_admitted(seen):
        if min(left.values()) == 0:
            break
        left[row.agent] -= 1
        had[row.agent] += 1
    return {agent: had[agent] / max(had.total(), 1) for agent in AGENTS}


def causes(seen: Seen) -> Counter[str]:
    """How often the webhook was told of each cause to wait."""
    told = [notice for notice in seen.notices if notice["kind"] == "waiting"]
    return Counter(str(notice["text"]).partition(" (")[0] + str(notice["facts"]) for notice in told)


def _cut_off(seen: Seen) -> int:
    """Count answers that were charged as their server was killed: told as such, once (R27)."""
    return sum(isinstance(task.end, escalade.AlreadyAnswered) for task in seen.tasks)


def lines(seen: Seen) -> Iterator[str]:
    """Write the figures for people."""
    answers = [task.end for task in seen.tasks if isinstance(task.end, escalade.Answer)]
    status = sorted(seen.status_s) or [0.0]
    booked = sum(row.paid_nanos for row in seen.rows) / 1e9
    rows, charged = len(seen.rows), sum(row.answered for row in seen.rows)
    yield f"{len(answers):8,}  of {len(seen.tasks):,} tasks answered, in {seen.took_s:.0f} s"
    yield f"{_cut_off(seen):8,}  told that they were answered, as their server was killed"
    yield f"{seen.restarts.total():8,}  restarts while tasks waited: {dict(seen.restarts)}"
    yield f"{seen.cuts:8,}  connections cut, {sum(t.breaks for t in seen.tasks):,} streams resumed"
    yield f"{sum(len(t.since) != 1 for t in seen.tasks):8,}  places lost"
    yield f"{charged:8,}  answers charged, {seen.finished:,} told by the providers to their end"
    yield f"{rows - charged:8,}  other calls: refused, or cut in mid-answer and asked again"
    yield f"{seen.paid_nanos / 1e9:8.4f}  $ billed for the paid layer, {booked:.4f} booked or held"
    had = ", ".join(f"{name} {share:.1%}" for name, share in shares(seen).items())
    yield f"          shares while all agents waited: {had}"
    yield f"{inverted(seen):8.1%}  of the pairs of an agent's tasks went the younger first"
    yield f"{causes(seen).total():8,}  notices of {len(causes(seen)):,} causes to wait"
    yield f"{status[0]:8.3f}  s for a GetStatus meanwhile; median {status[len(status) // 2]:.3f}"
    yield f"          of {len(status):,}, worst {status[-1]:.3f}"


def check(seen: Seen) -> None:
    """Fail with what does not hold."""
    good = escalade.Answer | escalade.AlreadyAnswered
    failed = [f"{t.id}: {t.end!r}" for t in seen.tasks if not isinstance(t.end, good)]
    assert not failed, failed[:5]
    assert _cut_off(seen) <= 3 * seen.restarts["SIGKILL"], "three calls a second may be under way"
    charged = Counter(row.id for row in seen.rows if row.answered)
    assert charged == Counter(task.id for task in seen.tasks), "one charged answer for each task"
    assert not [row for row in seen.rows if row.state == OPEN], "nothing stays open"
    assert len(charged) <= seen.finished <= seen.billed <= len(seen.rows), "no call is unbooked"
    assert seen.paid_nanos <= sum(row.paid_nanos for row in seen.rows), "nor booked for less"
    assert not [task.id for task in seen.tasks if len(task.since) != 1], "places are kept"
    assert seen.restarts.total() == seen.plan.restarts, "somebody waits through every restart"
    assert seen.cuts, "the road is cut"
    if seen.plan.cut_s >= ORDERLY_S:
        assert inverted(seen) <= INVERTED, "oldest first"
        for agent, share in shares(seen).items():
            assert abs(share * len(AGENTS) - 1) <= SHARE, (agent, share)
    told = causes(seen)
    assert told, "people are told"
    assert max(told.values()) == 1, told
    assert seen.status_s or seen.plan.cut_s < ORDERLY_S, "somebody asks how things stand"
    assert min(seen.status_s, default=0.0) < STATUS_S, "who waits is in nobody's way"
