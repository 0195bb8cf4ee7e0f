"""What is wrong with a strategy file, where, and how to mend it; and what is worth saying of it."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

Path = tuple[str | int, ...]
"""Keys and list indexes from the top of the file to a value."""

SIMILAR = 0.6
"""From this likeness on (difflib's ratio) a name is offered as the one that was meant."""


def dotted(path: Path) -> str:
    """Write a path as people do: ``fallback_strategy.layers[0].models[1].model``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Find the known word that a typo most likely meant, or None."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=SIMILAR)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Word the mend of a typo: the nearest known name, else ``otherwise``."""
    near = nearest(word, known)
    return f'did you mean "{near}"?' if near else otherwise


@dataclass(frozen=True, slots=True)
class StrategyError:
    """One thing that keeps a file from loading. ``found`` never holds a key or its value.

    Lines and columns count from 1; 0 is the file itself.
    """

    file: str
    line: int
    column: int
    key: str
    problem: str
    found: str = ""
    allowed: str = ""
    mend: str = ""

    def __str__(self) -> str:
        """Render one line, and a second one for what is allowed and the mend."""
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        head = f"{where}: {self.key}: {self.problem}" if self.key else f"{where}: {self.problem}"
        if self.found:
            head += f" (found {self.found})"
        rest = "; ".join(
            part for part in (self.allowed and f"allowed: {self.allowed}", self.mend) if part
        )
        return f"{head}\n    {rest}" if rest else head


class StrategyErrors(Exception):
    """A file is refused whole, with everything that is wrong with it (DESIGN 3)."""

    def __init__(self, errors: Iterable[StrategyError]) -> None:
        """Keep the errors in the order of the file."""
        self.errors = tuple(sorted(set(errors), key=lambda e: (e.line, e.column, e.key)))
        super().__init__("\n".join(str(error) for error in self.errors))

    def __iter__(self) -> Iterator[StrategyError]:
        """Go over the errors."""
        return iter(self.errors)


class Level(Enum):
    """How loudly a notice is said."""

    INFO = "info"
    ADVICE = "advice"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something worth saying about a file that loads; ``line`` 0 means no particular one."""

    level: Level
    code: str
    line: int
    sentence: str
    mend: str = ""

    def __str__(self) -> str:
        """Render it in one line."""
        where = f" line {self.line}:" if self.line else ""
        mend = f" {self.mend}" if self.mend else ""
        return f"{self.level.value} {self.code}:{where} {self.sentence}{mend}"


@dataclass(frozen=True, slots=True)
class NotYetInEffect:
    """A key that is accepted and checked, but whose behaviour this version does not have."""

    key: str
    line: int
    sentence: str

    def __str__(self) -> str:
        """Render it in one line."""
        where = f"line {self.line}" if self.line else "default"
        return f"{where}: {self.key} is not yet in effect: {self.sentence}"
