"""Where the vendors of the OpenAI dialect part ways, as data."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from escalade_server.core.task import Effort

Fields = Mapping[str, object]


def _efforts(none: str | None = "none") -> Mapping[Effort, Fields]:
    """``reasoning_effort`` by its common words; ``none`` is how one says no reasoning."""
    words = {Effort.LOW: "low", Effort.MEDIUM: "medium", Effort.HIGH: "high"}
    fields: dict[Effort, Fields] = {
        effort: {"reasoning_effort": word} for effort, word in words.items()
    }
    if none is not None:
        fields[Effort.NONE] = {"reasoning_effort": none}
    return MappingProxyType(fields)


NO_EFFORTS: Final[Mapping[Effort, Fields]] = MappingProxyType({})
SAMPLING: Final = frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty"})


@dataclass(frozen=True, slots=True)
class Quirks:
    """How to speak to one family of models.

    Attributes:
        output_bound: the field that bounds output, reasoning included where the vendor counts it.
        efforts: what to send for an effort; nothing for one that is not listed.
        refuses: fields that the models answer with an error, so they are left out.
        returns_reasoning: wants ``reasoning_content`` back with each of its earlier turns as long
            as tools are offered, else answers 400.
        cache_marks: takes ``cache_control`` on the parts of a message.
        costs: reports ``usage.cost`` in dollars.
    """

    output_bound: str = "max_tokens"
    efforts: Mapping[Effort, Fields] = field(default_factory=_efforts)
    refuses: frozenset[str] = frozenset()
    returns_reasoning: bool = False
    cache_marks: bool = False
    costs: bool = False


_COMPATIBLE: Final = Quirks()
_OPENAI_BOUND: Final = "max_completion_tokens"
_REASONER_REFUSES: Final = SAMPLING | {"stop"}

# Provider, pattern of its model ids, quirks; the first that fits.
_TABLE: Final[tuple[tuple[str, re.Pattern[str], Quirks], ...]] = (
    (
        "openai",
        re.compile(r"o\d"),
        Quirks(_OPENAI_BOUND, _efforts(none=None), _REASONER_REFUSES),
    ),
    (
        "openai",
        re.compile(r"gpt-5\.\d"),
        Quirks(_OPENAI_BOUND, _efforts(), _REASONER_REFUSES),
    ),
    (
        "openai",
        re.compile(r"gpt-5(?!-chat)"),
        Quirks(_OPENAI_BOUND, _efforts(none="minimal"), _REASONER_REFUSES),
    ),
    ("openai", re.compile(""), Quirks(_OPENAI_BOUND, NO_EFFORTS)),
    (
        "deepseek",
        re.compile(""),
        Quirks(
            efforts=MappingProxyType(
                {
                    Effort.NONE: {"thinking": {"type": "disabled"}},
                    **{
                        effort: {"thinking": {"type": "enabled"}, **fields}
                        for effort, fields in _efforts(none=None).items()
                    },
                }
            ),
            returns_reasoning=True,
        ),
    ),
    (
        "openrouter",
        re.compile(""),
        Quirks(
            efforts=MappingProxyType(
                {effort: {"reasoning": {"effort": effort.value}} for effort in Effort}
            ),
            cache_marks=True,
            costs=True,
        ),
    ),
    ("minimax", re.compile(""), Quirks(efforts=NO_EFFORTS)),
)


def quirks_of(provider: str, wire_id: str) -> Quirks:
    """The quirks of a model, by its provider and the id that goes over the wire."""
    for name, pattern, quirks in _TABLE:
        if name == provider and pattern.match(wire_id):
            return quirks
    return _COMPATIBLE
