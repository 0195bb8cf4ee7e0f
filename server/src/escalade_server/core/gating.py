"""Which gates stand before the answers of one task (R21). Checking them is handed in."""

from dataclasses import dataclass
from typing import Protocol

from escalade_server.core.commands import Candidate
from escalade_server.core.ending import NoWay
from escalade_server.core.facts import ErrorReason
from escalade_server.core.gates import NOTHING, Demands, Gate, GateFailure, OnUnmet, Quality, Wish
from escalade_server.core.task import Delivery, FormatKind, Request
from escalade_server.core.trace import Answer


class Checker(Protocol):
    """Checks whole answers: pure, and in time linear in their length."""

    def check(self, request: Request, answer: Answer, demands: Demands) -> GateFailure | None:
        """Answer the first failed gate; None when all hold. Nothing told quotes the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Gating:
    """What is asked of the answers of one task."""

    checker: Checker
    request: Request
    quality: Quality
    demands: Demands
    """In every layer."""
    output_tokens: int
    """What the caller, or the strategy by default, lets an answer have."""
    on_unmet: OnUnmet

    def demands_on(self, candidate: Candidate) -> Demands | None:
        """What the answer of one model must pass before any of it is delivered; None: nothing.

        A gate that cannot fail holds nothing back: ``TRUNCATED`` is asked only where the model
        may say less than the caller allows, and a gate of form only where that form is asked for.
        """
        asked, request = self.demands, self.request
        of_layer = self.quality.by_layer.get(candidate.model.layer)
        if of_layer is not None:
            asked |= of_layer
        kind = request.response_format.kind
        matters = {
            Gate.EMPTY: False,  # decided at the first content, for everyone
            Gate.TRUNCATED: candidate.output_tokens_max < self.output_tokens,
            Gate.REFUSAL: True,
            Gate.INVALID_JSON: kind is not FormatKind.TEXT,
            Gate.JSON_SCHEMA: kind is FormatKind.JSON_SCHEMA,
            Gate.TOOL_CALL: bool(request.tools),
            Gate.TOO_SHORT: asked.shortest_characters > 0,
            Gate.PATTERN: bool(asked.patterns or asked.literals),
        }
        gates = frozenset([gate for gate in asked.gates if matters[gate]])
        if not gates:
            return None
        return Demands(gates, asked.shortest_characters, asked.patterns, asked.literals)


def gating_of(
    request: Request, quality: Quality, task_type: str, output_tokens: int, checker: Checker
) -> Gating | None:
    """Say what is asked of a task's answers; None: nothing, or its caller checks them (R32)."""
    wish = request.quality
    if wish is None and not (quality.demands.gates or quality.by_layer or quality.by_type):
        return None
    if request.delivery is Delivery.ROUTE:
        return None
    wish = wish or Wish()
    demands = quality.demands | quality.by_type.get(task_type, NOTHING) | wish.demands
    on_unmet = wish.on_unmet or quality.on_unmet
    return Gating(checker, request, quality, demands, output_tokens, on_unmet)


def may_check_schema(request: Request, quality: Quality) -> bool:
    """Whether an answer may be checked against the schema of its request, in some layer."""
    if request.response_format.kind is not FormatKind.JSON_SCHEMA:
        return False
    wish, gate = request.quality, Gate.JSON_SCHEMA
    return quality.may_ask(gate) or (wish is not None and gate in wish.demands.gates)


def unusable_schema(what: str) -> NoWay:
    """Why nothing is called: ``what`` says in a few words why no answer can be checked."""
    field = "response_format.json_schema.schema_json"
    return NoWay(ErrorReason.REQUEST_INVALID, f"{field} {what}", metadata=(("field", field),))
