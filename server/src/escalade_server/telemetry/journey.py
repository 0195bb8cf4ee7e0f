"""What one task told its observers, in order: the material of its spans."""

from dataclasses import dataclass, field
from typing import NamedTuple

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

_NEWS = (Escalated, Fallback, Waiting, Retracted, Alert)


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


def is_eventful(fact: Fact) -> bool:
    """Tell whether a task is one that an operator may ask about, from this fact on."""
    return isinstance(fact, _NEWS) or (type(fact) is Selected and fact.attempt > 1)


def was_eventful(outcome: Outcome, slow_ms: int) -> bool:
    """Tell it of a task that has ended: it failed, missed a gate, or took longer than that."""
    if isinstance(outcome, Failed) or outcome.unmet is not None:
        return True
    report = outcome.report
    if outcome.replayed:
        return False
    if report.ended_ms - report.started_ms >= slow_ms or len(report.attempts) > 1:
        return True
    return any(each.status is AttemptStatus.REJECTED for each in report.attempts)
