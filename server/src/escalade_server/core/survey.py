"""A layer as one task finds it, and what the triggers of other layers make of that (R5, R6)."""

from escalade_server.core import complexity
from escalade_server.core.commands import Candidate
from escalade_server.core.experience import class_of
from escalade_server.core.record import record
from escalade_server.core.standing import Verdict, VerdictClass
from escalade_server.core.trace import Skip
from escalade_server.core.triggers import ComplexityTrigger, Condition, Trigger

_TRIED = VerdictClass.TRIED
_ASKED = {
    Condition.EXHAUSTED: None,
    Condition.ALL_MODELS_UNAVAILABLE: None,
    Condition.RATE_LIMIT_EXCEEDED: VerdictClass.RATE,
    Condition.BUDGET_EXHAUSTED: VerdictClass.MONEY,
}
"""The class of verdict that a condition asks for; None for any (R5)."""


def effective(verdict: Verdict) -> VerdictClass:
    """Class of a verdict for triggers: a tried model keeps the class of its failure (R5)."""
    cls = verdict.cls
    if cls is _TRIED and verdict.failure is not None:
        return class_of(verdict.failure)
    return cls


@record
class Survey:
    """Who could be called, and why not the others."""

    good: list[Candidate]
    skips: list[Skip]

    def has(self, cls: VerdictClass) -> bool:
        """Tell whether a reason of this class stands against one of the models."""
        for skip in self.skips:
            verdict = skip.verdict
            if verdict.cls is cls or (verdict.cls is _TRIED and effective(verdict) is cls):
                return True
        return False


def condition_holds(condition: Condition, survey: Survey) -> bool:
    """Evaluate ``<layer>.<condition>`` (R5)."""
    if survey.good:
        return False
    cls = _ASKED[condition]
    return cls is None or survey.has(cls)


def trigger_holds(trigger: Trigger, units: int, surveys: dict[str, Survey]) -> bool:
    """Evaluate one trigger; a layer that was not surveyed does not hold."""
    if isinstance(trigger, ComplexityTrigger):
        return complexity.holds(trigger, units)
    survey = surveys.get(trigger.layer)
    return survey is not None and condition_holds(trigger.condition, survey)
