"""Gates drawn from a seed: who demands what, and which answers fail (R21)."""

from dataclasses import replace
from random import Random

from escalade_server.core.catalog import Catalog
from escalade_server.core.facts import Finished, Outcome
from escalade_server.core.gates import (
    NOTHING,
    Demands,
    Gate,
    GateFailure,
    OnUnmet,
    Quality,
    Wish,
)
from escalade_server.core.task import Request, Text
from escalade_server.core.trace import Answer, AttemptRecord, AttemptStatus
from escalade_server.simulation.chance import between, chance, maybe, pick
from escalade_server.simulation.workload import Arrival, number_of

FAILS_PERCENT = 45
_ASKED = (
    Demands(frozenset({Gate.REFUSAL})),
    Demands(frozenset({Gate.TRUNCATED})),
    Demands(frozenset({Gate.TOO_SHORT}), shortest_characters=9),
    Demands(frozenset({Gate.PATTERN}), literals=("x",)),
)


class Judge:
    """``Checker`` of a seed: which answer fails is drawn, whatever it says."""

    def __init__(self, seed: int) -> None:
        """Say what is drawn from."""
        self._seed = seed

    def check(self, request: Request, answer: Answer, demands: Demands) -> GateFailure | None:
        """Fail a share of the answers at the first gate."""
        said = "".join([part.text for part in answer.parts if isinstance(part, Text)])
        attempt = int(said.split(".")[1]) if said.count(".") > 1 else 0
        rng = chance(self._seed, 6, number_of(request), attempt)
        if not maybe(rng, FAILS_PERCENT):
            return None
        gate = demands.held_by[0]
        return GateFailure(gate, f"failed {gate.value}")


def gated(seed: int, catalog: Catalog) -> Catalog:
    """Let a share of the strategies demand something."""
    rng = chance(seed, 4)
    if not maybe(rng, 30):
        return catalog
    rules = catalog.rules
    by_layer = {layer.name: pick(rng, _ASKED) for layer in catalog.layers if maybe(rng, 40)}
    by_type = {name: pick(rng, _ASKED) for name in catalog.task_types if maybe(rng, 30)}
    strategy_wide = pick(rng, (NOTHING, *_ASKED))
    on_unmet = pick(rng, tuple(OnUnmet))
    quality = Quality(strategy_wide, by_layer, by_type, rules.quality.escalations_max, on_unmet)
    return replace(catalog, rules=replace(rules, quality=quality))


def wishing(seed: int, arrivals: list[Arrival]) -> list[Arrival]:
    """Let a share of the tasks demand something of their own."""
    rng = chance(seed, 5)
    if not maybe(rng, 30):
        return arrivals
    return [
        each._replace(request=replace(each.request, quality=_wish(rng))) if maybe(rng, 50) else each
        for each in arrivals
    ]


def _wish(rng: Random) -> Wish:
    most = between(rng, 0, 3) if maybe(rng, 30) else None
    return Wish(pick(rng, _ASKED), most, pick(rng, (None, *OnUnmet)))


def winner_of(outcome: Outcome) -> AttemptRecord:
    """Answer the attempt whose answer a task ended with, also where it stands in."""
    attempts = outcome.report.attempts
    if isinstance(outcome, Finished) and outcome.unmet is not None:
        return [attempt for attempt in attempts if is_gated(attempt)][-1]
    return attempts[-1]


def is_gated(attempt: AttemptRecord) -> bool:
    """Tell whether an attempt failed a gate that holds its deltas back."""
    return attempt.status is AttemptStatus.REJECTED and attempt.gate not in {None, Gate.EMPTY}
