"""Tasks that are steps of sessions, and what must hold for each (R29)."""

from collections import defaultdict
from dataclasses import replace

from escalade_server.core.commands import End, Settle
from escalade_server.core.facts import Assessed
from escalade_server.core.session import Evidence, EvidenceKind
from escalade_server.simulation.chance import between, chance, maybe, pick
from escalade_server.simulation.checkers import Seen, demand
from escalade_server.simulation.driver import Play
from escalade_server.simulation.workload import Arrival, number_of

WORLDS_PERCENT, STEPS_PERCENT, SIGNS_PERCENT = 40, 60, 30
NAMES, SIGNALS = ("one", "two", "three"), ("a", "b", "c", "d")


def stepping(seed: int, arrivals: list[Arrival]) -> list[Arrival]:
    """Let a share of the tasks of a share of the worlds be steps, some with signs of struggle."""
    if not maybe(chance(seed, 8), WORLDS_PERCENT):
        return arrivals
    return [_stepping(seed, arrival) for arrival in arrivals]


def _stepping(seed: int, arrival: Arrival) -> Arrival:
    request = arrival.request
    rng = chance(seed, 9, number_of(request))
    if not maybe(rng, STEPS_PERCENT):
        return arrival
    name, evidence = pick(rng, NAMES), list[Evidence]()
    if maybe(rng, SIGNS_PERCENT):
        kinds = tuple(EvidenceKind)
        evidence = [
            Evidence(pick(rng, kinds), pick(rng, SIGNALS)) for _ in range(between(rng, 1, 3))
        ]
    task = replace(request.task, session_id=name, evidence=tuple(evidence))
    return arrival._replace(request=replace(request, task=task))


class SessionsHold:
    """A start is raised by signs only, never above the limits, and never without being said."""

    kinds = (Assessed, Settle, End)

    def __init__(self) -> None:
        self._signs: dict[str, int] = defaultdict(int)
        self._told: dict[str, set[Evidence]] = defaultdict(set)

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del now_ms
        step = play.request.session
        if isinstance(what, Settle | End):
            session = what.tally.session if what.tally is not None else None
            demand(session is None or step is not None, self, "kept for a task of no session")
            if step is not None and session is not None and session.struggle is not None:
                self._signs[step.key] += 1
        elif isinstance(what, Assessed):
            seen, highest = what.assessment, play.request.constraints.highest_layer
            raised, layers = seen.raised_by, [each.name for each in play.driver.catalog.layers]
            demand(bool(seen.session_note) or not raised, self, "raised, and nothing is said")
            if step is None:
                demand(not raised, self, "raised without a session")
                return
            told = self._told[step.key]
            told |= set(play.request.task.evidence)
            signs = self._signs[step.key] + len(told)
            demand(raised <= signs, self, f"raised by {raised} for {signs} signs")
            start, most = seen.start_layer, highest or layers[-1]
            above = layers.index(start) > layers.index(most)
            demand(not (raised and above), self, f"raised to {start}, above {most}")
