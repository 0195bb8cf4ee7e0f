"""Where the models of the Anthropic dialect part ways, as data.

From the vendor's migration guides (platform.claude.com/docs, models), as of 2026-11.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

Fields = Mapping[str, object]


class Thinking(Enum):
    """How a model is asked to think."""

    NONE = "none"
    BUDGET = "budget"
    """By a number of tokens, when asked to."""
    ADAPTIVE = "adaptive"
    """As much as it sees fit, by an effort, when asked to."""
    ALWAYS = "always"
    """The same, unless told not to."""


@dataclass(frozen=True, slots=True)
class Quirks:
    """How to speak to one family of models.

    Attributes:
        thinking: how it is asked to think.
        off: what to send for no thinking where it thinks unasked; None: it cannot be kept from it.
        efforts: takes ``output_config.effort``.
        samples: takes ``temperature`` or ``top_p``; else they are an error.
        samples_both: takes the two together.
        schemas: takes ``output_config.format``.
        forces_tools: takes a ``tool_choice`` that leaves the model none.
    """

    thinking: Thinking = Thinking.NONE
    off: Fields | None = None
    efforts: bool = False
    samples: bool = True
    samples_both: bool = False
    schemas: bool = False
    forces_tools: bool = True


_DISABLED: Final[Fields] = MappingProxyType({"type": "disabled"})
_BETWEEN: Final[Fields] = MappingProxyType({"type": "between_tools"})

# Pattern of the model ids, quirks; the first that fits.
_TABLE: Final[tuple[tuple[re.Pattern[str], Quirks], ...]] = (
    (
        re.compile(r"claude-(fable|mythos)-|claude-opus-5-5"),
        Quirks(
            Thinking.ALWAYS, None, efforts=True, samples=False, schemas=True, forces_tools=False
        ),
    ),
    (
        re.compile(r"claude-sonnet-5-5"),
        Quirks(Thinking.ALWAYS, _BETWEEN, efforts=True, samples=False, schemas=True),
    ),
    (
        re.compile(r"claude-(opus|sonnet|haiku)-[5-9]"),
        Quirks(Thinking.ALWAYS, _DISABLED, efforts=True, samples=False, schemas=True),
    ),
    (
        re.compile(r"claude-opus-4-[78]"),
        Quirks(Thinking.ADAPTIVE, efforts=True, samples=False, schemas=True),
    ),
    (
        re.compile(r"claude-(opus|sonnet)-4-6"),
        Quirks(Thinking.ADAPTIVE, efforts=True, schemas=True),
    ),
    (re.compile(r"claude-opus-4-5"), Quirks(Thinking.BUDGET, efforts=True, schemas=True)),
    (
        re.compile(r"claude-(sonnet|haiku)-4-5|claude-opus-4-1"),
        Quirks(Thinking.BUDGET, schemas=True),
    ),
    (re.compile(r"claude-(opus|sonnet)-4"), Quirks(Thinking.BUDGET)),
    (re.compile(r"claude-3-7"), Quirks(Thinking.BUDGET, samples_both=True)),
)
_OTHER: Final = Quirks(samples_both=True)


def quirks_of(wire_id: str) -> Quirks:
    """The quirks of a model, by the id that goes over the wire."""
    return next((quirks for pattern, quirks in _TABLE if pattern.match(wire_id)), _OTHER)
