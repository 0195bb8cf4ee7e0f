"""One seed, from its world to its verdict."""

from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from escalade_server.core.commands import Announce, CallModel, Command, End, Queue, Settle
from escalade_server.core.events import AttemptFailed, Event
from escalade_server.core.facts import Escalated, Failed, Finished, Outcome, Retracted, Waiting
from escalade_server.engine.calendar import Calendar
from escalade_server.simulation.agenda import Agenda
from escalade_server.simulation.auditors import Auditor
from escalade_server.simulation.bills import BilledIsBooked
from escalade_server.simulation.books import Books
from escalade_server.simulation.checkers import (
    AnswersAreWhole,
    AttemptsBounded,
    ChangesAnnounced,
    Checker,
    CircuitsRespected,
    EndsInTime,
    GatesHold,
    InstantsAhead,
    LimitsRespected,
    NoSplice,
    OneEnding,
    ReportsTrue,
    Seen,
    SettledOnce,
    Violation,
    demand,
)
from escalade_server.simulation.driver import Driver, Play
from escalade_server.simulation.gates import Judge, winner_of
from escalade_server.simulation.resilience import Resilience
from escalade_server.simulation.sessions import SessionsHold
from escalade_server.simulation.store import Store
from escalade_server.simulation.trace import Line
from escalade_server.simulation.waits import WaitsHold
from escalade_server.simulation.workload import Arrival
from escalade_server.simulation.worlds import World, world

DOUBT_MS = 1_000_000
"""After so long every doubtful reservation has been booked."""


@dataclass(slots=True)
class Verdict:
    """What came of a seed. ``figures`` count what happened, so that nobody praises an idle run."""

    seed: int
    violation: str = ""
    lines: list[Line] = field(default_factory=list)
    figures: Tally[str] = field(default_factory=Tally)


def checkers(of: World) -> list[Checker]:
    """Make every checker anew, for one run."""
    return [
        OneEnding(), ChangesAnnounced(), NoSplice(), CircuitsRespected(), AttemptsBounded(),
        LimitsRespected(of.providers.lies), SettledOnce(), InstantsAhead(), ReportsTrue(),
        EndsInTime(clock_is_steady=not of.jumps), GatesHold(),
        WaitsHold(clock_is_steady=not of.jumps), SessionsHold(), BilledIsBooked(),
        AnswersAreWhole(),
    ]  # fmt: skip


class Trial:
    """A world in motion, under the eyes of all checkers."""

    def __init__(self, of: World, make: Callable[[World], list[Checker]] = checkers) -> None:
        """Put the parts together."""
        self.world = of
        self.verdict = Verdict(of.seed)
        calendar = Calendar()
        self.auditor = Auditor(calendar, of.providers.lies)
        self.books = Books(calendar, self.auditor.held, self.auditor.booked)
        self.agenda = Agenda(of.begin_ms, of.jumps)
        self.store = Store(self.agenda, self.books, of.weather)
        self.driver = Driver(
            of.catalog, self.agenda, self.store, of.providers, self.look, checker=Judge(of.seed)
        )
        self.resilience = Resilience(of)
        self._looking: dict[type[Seen], list[Checker]] = {}
        for checker in make(of):
            for kind in checker.kinds:
                self._looking.setdefault(kind, []).append(checker)

    def run(self) -> Verdict:
        """Run to the end. A violation stops it at once."""
        try:
            for arrival in self.world.arrivals:
                self.agenda.after(arrival.at_us, partial(self._arrive, arrival))
            self.agenda.run()
            self._close()
        except Violation as found:
            self.verdict.violation = str(found)
        except Exception as error:  # noqa: BLE001 - a mistake of ours is a finding, too
            self.verdict.violation = f"mistake: {type(error).__name__}: {error}"
        return self.verdict

    def look(self, play: Play, event: Event, commands: tuple[Command, ...]) -> None:
        """See one step."""
        now_ms, looking = self.agenda.now_ms(), self._looking
        line = Line(self.agenda.now_us, now_ms, play.number, event, commands)
        self.verdict.lines.append(line)
        if not self.resilience.opened_us and self.world.sick is not None:
            self.resilience.look(self.driver.health.circuits(now_ms), self.agenda.now_us)
        for checker in looking.get(type(event), ()):
            checker.see(play, event, now_ms)
        for command in commands:
            what: Seen = command.fact if isinstance(command, Announce) else command
            for checker in looking.get(type(what), ()):
                checker.see(play, what, now_ms)
            if isinstance(what, End):
                self._on_end(play, what.outcome)
            elif isinstance(what, CallModel):
                self.resilience.called(play.number)

    def _on_end(self, play: Play, outcome: Outcome) -> None:
        """A good ending comes after its settlement is durable (DESIGN 6, guarantee 4)."""
        if isinstance(outcome, Finished):
            id_ = winner_of(outcome).reservation_id
            demand(self.books.is_settled(id_), self, f"{id_} is not settled")
        self.resilience.ended(play.number, outcome)

    def _arrive(self, arrival: Arrival) -> None:
        play = self.driver.start(arrival.request)
        if arrival.leaves_after_us is not None:
            self.agenda.after(arrival.leaves_after_us, play.leave)

    def _close(self) -> None:
        """Look at what is left when nothing happens any more."""
        self.books.sweep(self.agenda.now_ms() + DOUBT_MS)
        demand(not self.driver.running, self, f"not ended: {sorted(self.driver.running)}")
        demand(self.driver.drains == 0, self, f"{self.driver.drains} drains are left")
        demand(self.store.owed == 0, self, f"{self.store.owed} settlements are owed")
        self.auditor.close(self.books)
        self.resilience.close()
        self.verdict.figures = figures(self)


def figures(trial: Trial) -> Tally[str]:
    """Count what happened in a run."""
    count: Tally[str] = Tally({"seeds": 1, f"kind {trial.world.kind.value}": 1})
    count["tasks"] = len(trial.world.arrivals)
    count["lies"] = len(trial.world.providers.lies)
    for _, _, _, event, commands in trial.verdict.lines:
        count["events"] += 1
        if isinstance(event, AttemptFailed):
            count[f"failure {event.failure.cls.value}"] += 1
        for command in commands:
            if isinstance(command, CallModel):
                count["attempts"] += 1
            elif isinstance(command, Settle):
                count["doubtful" if command.hold_until_ms else "settled"] += 1
            elif isinstance(command, Announce):
                fact = command.fact
                if isinstance(fact, Escalated):
                    count[f"escalated {fact.reason.value}"] += 1
                elif isinstance(fact, Retracted | Waiting):
                    count[type(fact).__name__.lower()] += 1
            elif isinstance(command, Queue):
                count["queued"] += 1
            elif isinstance(command, End):
                outcome = command.outcome
                ended = f"failed {outcome.reason.value}" if isinstance(outcome, Failed) else "ok"
                count[ended] += 1
                count["stood in"] += isinstance(outcome, Finished) and outcome.unmet is not None
    return count


def run(seed: int) -> Verdict:
    """Run one seed."""
    return Trial(world(seed)).run()
