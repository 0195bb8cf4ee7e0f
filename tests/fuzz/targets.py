"""Every fuzz target by its name. A target takes any bytes, and raises only on a finding."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.fuzz import calls, wire, words

Target = Callable[[bytes], None]

FOLDER = Path(__file__).parent
CORPUS = FOLDER / "corpus"
CRASHES = FOLDER / "crashes"

TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "sse": wire.sse,
        "openai": wire.answers_of_openai,
        "anthropic": wire.answers_of_anthropic,
        "gemini": wire.answers_of_gemini,
        "errors": wire.errors,
        "strategy": words.strategy,
        "parse": words.small_languages,
        "resets": words.reset_times,
        "requests": calls.requests,
    }
)


def inputs(name: str) -> list[Path]:
    """The committed corpus of a target: seeds, and what once broke something."""
    return sorted((CORPUS / name).iterdir())
