"""Where the models of the Gemini dialect part ways, as data.

From ai.google.dev/gemini-api/docs (thinking, thought signatures, structured output), as of 2026-11.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from escalade_server.core.task import Effort

Efforts = Mapping[Effort, int | str]
_NO_EFFORTS: Final[Efforts] = MappingProxyType({})


def _levels(least: str) -> Efforts:
    """By word; ``least`` is how little a model can be made to think."""
    return MappingProxyType(
        {
            Effort.NONE: least,
            Effort.LOW: "low",
            Effort.MEDIUM: "medium",
            Effort.HIGH: "high",
        }
    )


def _budgets(least: int) -> Efforts:
    """By tokens."""
    return MappingProxyType(
        {Effort.NONE: least, Effort.LOW: 1_024, Effort.MEDIUM: 8_192, Effort.HIGH: 24_576}
    )


@dataclass(frozen=True, slots=True)
class Quirks:
    """How to speak to one family of models.

    Attributes:
        thinks: takes ``thinkingConfig``; it is an error elsewhere.
        efforts: how much to think, as a level (a word) or a budget (tokens).
        demands_signatures: refuses a call of its current turn without a thought signature.
        tools_with_form: takes tools and a form of answer in one request.
    """

    thinks: bool = True
    efforts: Efforts = field(default_factory=lambda: _levels("minimal"))
    demands_signatures: bool = True
    tools_with_form: bool = True


# Pattern of the model ids, quirks; the first that fits.
_TABLE: Final[tuple[tuple[re.Pattern[str], Quirks], ...]] = (
    (
        re.compile(r"(models/)?gemini-2\.5-pro"),
        Quirks(efforts=_budgets(128), demands_signatures=False, tools_with_form=False),
    ),
    (
        re.compile(r"(models/)?gemini-2\.5"),
        Quirks(efforts=_budgets(0), demands_signatures=False, tools_with_form=False),
    ),
    (
        re.compile(r"(models/)?(gemini-[12]|gemma|learnlm)"),
        Quirks(thinks=False, efforts=_NO_EFFORTS, demands_signatures=False, tools_with_form=False),
    ),
    # The larger ones always think.
    (re.compile(r"(models/)?gemini-.*pro"), Quirks(efforts=_levels("low"))),
)
_OTHER: Final = Quirks()


def quirks_of(wire_id: str) -> Quirks:
    """The quirks of a model, by the id that goes over the wire."""
    return next((quirks for pattern, quirks in _TABLE if pattern.match(wire_id)), _OTHER)
