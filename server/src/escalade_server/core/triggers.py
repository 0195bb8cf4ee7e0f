"""What a layer asks before the walk may step up to it (R4, R5, R6)."""

from dataclasses import dataclass
from enum import Enum


class Condition(Enum):
    """What a layer trigger asks of another layer (R5)."""

    EXHAUSTED = "exhausted"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    ALL_MODELS_UNAVAILABLE = "all_models_unavailable"
    BUDGET_EXHAUSTED = "budget_exhausted"


@dataclass(frozen=True, slots=True)
class LayerTrigger:
    """``<layer>.<condition>``, as written in ``text`` on ``line`` of the file."""

    layer: str
    condition: Condition
    text: str
    line: int = 0


class Comparison(Enum):
    """Comparison of a complexity trigger; only GT and GE make a jump (R4)."""

    GT = ">"
    GE = ">="
    LT = "<"
    LE = "<="
    EQ = "=="


@dataclass(frozen=True, slots=True)
class ComplexityTrigger:
    """``task.complexity <comparison> <value>``; the value in micro-points."""

    comparison: Comparison
    value_micro: int
    text: str
    line: int = 0


Trigger = LayerTrigger | ComplexityTrigger
