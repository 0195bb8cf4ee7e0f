"""What one task told its observers, in order: the material of its spans.

Noted once for all that make something of it: a task to which nothing happens costs these notes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from escalade_server.core.facts import (
    Alert,
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


class Told(NamedTuple):
    """One fact, and when it was announced (Unix ms)."""

    fact: Fact
    at_ms: int


@dataclass(slots=True)
class Journey:
    """One task as far as it has come; ``outcome`` is None while it runs."""

    task_id: str
    request: Request
    told: list[Told] = field(default_factory=list)
    outcome: Outcome | None = None
    is_eventful: bool = False
    """From the first fact on that is; what only its ending shows is ``was_eventful``'s to say."""


def is_eventful(fact: Fact) -> bool:
    """Tell whether a task is one that an operator may ask about, from this fact on."""
    return type(fact) in _NEWS or (type(fact) is Selected and fact.attempt > 1)


def was_eventful(outcome: Outcome, slow_ms: int) -> bool:
    """Tell it of a task that has ended: it failed, missed a gate, or took longer than that."""
    if isinstance(outcome, Failed) or outcome.unmet is not None:
        return True
    report = outcome.report
    if outcome.replayed:
        return False
    attempts = report.attempts
    if report.ended_ms - report.started_ms >= slow_ms or len(attempts) > 1:
        return True
    return len(attempts) == 1 and attempts[0].status is AttemptStatus.REJECTED


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
        journey.told.append(Told(fact, now_ms))
        if journey.is_eventful or is_eventful(fact):
            journey.is_eventful = True
            for reader in self._readers:
                reader.went(journey, fact)

    def ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        """See the one ending of a task."""
        journey = self._running.pop(task_id, None) or Journey(task_id, request)
        journey.outcome = outcome
        for reader in self._readers:
            reader.arrived(journey)
