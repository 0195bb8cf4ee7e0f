"""Quality gates: what an answer must pass before it counts as one (R21). Only words and sums.

The cascade of the literature: cheap first, verified, then dear (FrugalGPT, arXiv:2305.05176).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Gate(Enum):
    """A check of an answer. Closed."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    """Cut by the model's own limit, not by the caller's."""
    REFUSAL = "refusal"
    """Refused or filtered; only a strategy may ask for it (guarantee 6)."""
    INVALID_JSON = "invalid_json"
    """JSON was asked for, and the text is none."""
    JSON_SCHEMA = "json_schema"
    """A schema was given, and the text does not obey it."""
    TOOL_CALL = "tool_call"
    """A tool that was not offered, or arguments that are no JSON object."""
    TOO_SHORT = "too_short"
    PATTERN = "pattern"
    """A pattern of the strategy, or a literal of the request, is missing."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What is asked of the answers of one task in one layer."""

    gates: frozenset[Gate] = frozenset()
    """``EMPTY`` always stands, and holds nothing: the first non-blank content decides it."""
    shortest_characters: int = 0
    patterns: tuple[str, ...] = ()
    """Regular expressions of the strategy, each to be found somewhere in the text."""
    literals: tuple[str, ...] = ()
    """Words of the request, each to be found in the text."""

    def __or__(self, other: "Demands") -> "Demands":
        """Ask for both."""
        return Demands(
            self.gates | other.gates,
            max(self.shortest_characters, other.shortest_characters),
            tuple(dict.fromkeys(self.patterns + other.patterns)),
            tuple(dict.fromkeys(self.literals + other.literals)),
        )

    @property
    def held_by(self) -> tuple[Gate, ...]:
        """The gates that hold deltas back until they have decided, in the order of checking."""
        return tuple(gate for gate in Gate if gate in self.gates and gate is not Gate.EMPTY)


class OnUnmet(Enum):
    """What becomes of the last answer when no layer is left for a better one."""

    FAIL = "fail"
    DELIVER = "deliver"


NOTHING = Demands()


@dataclass(frozen=True, slots=True)
class Wish:
    """What one request asks for, beyond its strategy."""

    demands: Demands = NOTHING
    escalations_max: int | None = None
    """A lower limit than the strategy's; None leaves that."""
    on_unmet: OnUnmet | None = None


@dataclass(frozen=True, slots=True)
class Quality:
    """``quality:`` of a strategy, of its layers (by name) and of its task types."""

    demands: Demands = NOTHING
    by_layer: Mapping[str, Demands] = field(default_factory=dict)
    by_type: Mapping[str, Demands] = field(default_factory=dict)
    escalations_max: int = 2
    """Failed gates that a task may escalate on."""
    on_unmet: OnUnmet = OnUnmet.FAIL

    def may_ask(self, gate: Gate) -> bool:
        """Tell whether any of it asks for a gate."""
        every = (self.demands, *self.by_layer.values(), *self.by_type.values())
        return any(gate in demands.gates for demands in every)


NO_QUALITY = Quality()


class GateFailure(NamedTuple):
    """The first gate that an answer failed, in words that quote nothing of it."""

    gate: Gate
    detail: str
