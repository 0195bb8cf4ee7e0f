"""Tasks that may wait for capacity, and what must hold for each that does (R22, quotas C11)."""

from dataclasses import replace

from escalade_server.core.commands import CallModel, End, Queue, Reserve, Settle
from escalade_server.core.events import TurnCame
from escalade_server.core.task import Constraints
from escalade_server.simulation.chance import chance, maybe, pick
from escalade_server.simulation.checkers import Seen, demand
from escalade_server.simulation.driver import Play
from escalade_server.simulation.workload import Arrival, number_of

PATIENT_PERCENT = 60
DEADLINES_MS = (0, 5_000, 60_000, 3_600_000, 90_000_000)
"""How much later than its work a task's caller may give up."""
BUDGETS_MS = (None, None, 0, 2_000, 60_000, 7_200_000)


def patient(seed: int, arrivals: list[Arrival]) -> list[Arrival]:
    """Let a share of the tasks outlast their work, and say whether and how long they may wait."""
    return [_patient(seed, arrival) for arrival in arrivals]


def _patient(seed: int, arrival: Arrival) -> Arrival:
    request = arrival.request
    rng = chance(seed, 7, number_of(request))
    if not maybe(rng, PATIENT_PERCENT):
        return arrival
    limits: Constraints = replace(
        request.constraints,
        may_wait=pick(rng, (None, None, True, False)),
        max_wait_ms=pick(rng, BUDGETS_MS),
    )
    ends_ms = request.deadline_ms + pick(rng, DEADLINES_MS)
    return arrival._replace(request=replace(request, constraints=limits, ends_ms=ends_ms))


class WaitsHold:
    """Who waits holds nothing, is told an instant in its budget, and never outstays it."""

    kinds = (TurnCame, Queue, Reserve, CallModel, Settle, End)

    def __init__(self, *, clock_is_steady: bool) -> None:
        self._steady = clock_is_steady
        self._open: dict[int, set[int]] = {}
        self._since: dict[int, int] = {}
        self._waited: dict[int, int] = {}

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        number = play.number
        held = self._open.setdefault(number, set())
        if isinstance(what, Queue):
            demand(not held, self, f"waits, and holds {held}")
            demand(play.request.constraints.may_wait is not False, self, "waits, and may not")
            earliest_ms, ends_ms = what.waiting.earliest_ms, play.request.ends_ms
            ends_ms = ends_ms or play.request.deadline_ms
            demand(now_ms < earliest_ms < ends_ms, self, f"until {earliest_ms}, ends {ends_ms}")
            self._since.setdefault(number, now_ms)
        elif isinstance(what, CallModel):
            held.add(what.attempt)
        elif isinstance(what, Settle):
            held.discard(what.attempt)
        since_ms = self._since.get(number)
        if since_ms is None or isinstance(what, Queue | Settle):
            return
        del self._since[number]
        waited_ms = self._waited[number] = self._waited.get(number, 0) + now_ms - since_ms
        rules, asked_ms = play.driver.catalog.rules, play.request.constraints.max_wait_ms
        budget_ms = rules.max_wait_ms if asked_ms is None else min(asked_ms, rules.max_wait_ms)
        told = f"waited {waited_ms} of {budget_ms} ms"  # a pause after a turn is time of its work
        demand(not self._steady or waited_ms <= budget_ms, self, told)
