"""What one task told its observers, in order: the material of its spans.

Noted once for all that make something of it: a task to which nothing happens costs these notes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from escalade_server.core.facts import (
    Alert,
    Assessed,
    Escalated,
    Fact,
    Failed,
    Fallback,
    Outcome,
    Retracted,
    Selected,
    Waiting,
)
from escalade_server.core.task import Request
from escalade_server.core.trace import AttemptStatus

_NEWS = frozenset((Escalated, Fallback, Waiting, Retracted, Alert))


Told: TypeAlias = tuple[Fact, int]
"""One fact, and when it was announced (Unix ms). Without names: every task makes some of them."""


@dataclass(slots=True)
class Journey:
    """One task as far as it has come; ``outcome`` is None while it runs."""

    task_id: str
    request: Request
    told: list[Told] = field(default_factory=list)
    outcome: Outcome | None = None
    is_eventful: bool = False
    """From the first fact on that is."""
    was_eventful: bool = False
    """With what only its ending shows; known at its end."""
    took_ms: int = 0
    """Known at its end; 0 if it was only told again."""


def is_eventful(fact: Fact) -> bool:
    """Tell whether a task is one that an operator may ask about, from this fact on."""
    return type(fact) in _NEWS or (type(fact) is Selected and fact.attempt > 1)


def went_wrong(outcome: Outcome) -> bool:
    """Tell it of a task that has ended: it failed, missed a gate, or took more than one attempt."""
    if isinstance(outcome, Failed) or outcome.unmet is not None:
        return True
    attempts = outcome.report.attempts
    if outcome.replayed or not attempts:
        return False
    return len(attempts) > 1 or attempts[0].status is AttemptStatus.REJECTED


class Reader(Protocol):
    """Makes something of journeys. Neither blocks nor raises."""

    def went(self, journey: Journey, fact: Fact) -> None:
        """See how far an eventful task has come, with its newest fact."""
        ...

    def arrived(self, journey: Journey) -> None:
        """See a whole journey, with its outcome."""
        ...


class Journeys:
    """``Observer`` of the engine: notes every task for its readers."""

    def __init__(self, readers: Sequence[Reader], running: dict[str, Journey]) -> None:
        """``running`` is where the journeys of running tasks stand, by task id."""
        self._readers, self._running = tuple(readers), running

    def fact(self, task_id: str, request: Request, fact: Fact, now_ms: int) -> None:
        """See one announced fact."""
        journey = self._running.get(task_id)
        if journey is None:
            journey = self._running[task_id] = Journey(task_id, request)
        if type(fact) is Waiting and fact.repeated:
            return
        journey.told.append((fact, now_ms))
        if journey.is_eventful or (type(fact) is not Assessed and is_eventful(fact)):
            journey.is_eventful = True
            for reader in self._readers:
                reader.went(journey, fact)

    def ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        """See the one ending of a task."""
        journey = self._running.pop(task_id, None) or Journey(task_id, request)
        journey.outcome = outcome
        journey.was_eventful = journey.is_eventful or went_wrong(outcome)
        if isinstance(outcome, Failed) or not outcome.replayed:
            journey.took_ms = outcome.report.ended_ms - outcome.report.started_ms
        for reader in self._readers:
            reader.arrived(journey)
