"""``quality:`` of a strategy, of its layers and of its task types (R21)."""

import re
from collections.abc import Callable, Iterator, Mapping

from escalade_server.core.gates import NOTHING, Demands, Gate, Quality
from escalade_server.strategy import model as config
from escalade_server.strategy.errors import Path, StrategyError
from escalade_server.strategy.validate import TOP
from escalade_server.strategy.yaml_nodes import Document

PatternError = Callable[[str], str]
"""Says why a pattern cannot be used; nothing when it can."""


def no_pattern(pattern: str) -> str:
    """Ask Python's engine, which knows more than those of linear time."""
    try:
        re.compile(pattern)
    except re.error as error:
        return f"not a regular expression: {error}"
    return ""


def quality(strategy: config.Strategy, name_of: Callable[[str], str]) -> Quality:
    """Resolve what answers must pass; ``name_of`` answers the name of a task type."""
    own = strategy.quality or config.Quality()
    by_layer = {layer.name: demands(layer.quality) for layer in strategy.layers}
    by_type: dict[str, Demands] = {}
    for word, kind in strategy.task_types.items():
        name = name_of(word)
        by_type[name] = by_type.get(name, NOTHING) | demands(kind.quality)
    return Quality(
        demands(own), _asking(by_layer), _asking(by_type), own.max_escalations, own.on_unmet
    )


def demands(own: config.Demands | None) -> Demands:
    """Resolve one section; ``empty`` always stands, and need not be asked."""
    if own is None:
        return NOTHING
    gates = set(own.gates) - {Gate.EMPTY}
    if own.shortest_characters:
        gates.add(Gate.TOO_SHORT)
    if own.pattern:
        gates.add(Gate.PATTERN)
    patterns = (own.pattern,) if own.pattern else ()
    return Demands(frozenset(gates), own.shortest_characters or 0, patterns)


def _asking(found: Mapping[str, Demands]) -> dict[str, Demands]:
    return {name: asked for name, asked in found.items() if asked.gates}


def refused_patterns(
    document: Document, strategy: config.Strategy, pattern_error: PatternError
) -> list[StrategyError]:
    """Refuse what the engine of patterns cannot match, before any answer depends on it."""
    errors = []
    for path, own in _sections(strategy):
        problem = pattern_error(own.pattern) if own.pattern else ""
        if problem:
            at = path if path in document.keys else (TOP, *path)
            allowed = "no look-around and no back-reference"
            errors.append(document.error((*at, "pattern"), problem, f'"{own.pattern}"', allowed))
    return errors


def _sections(strategy: config.Strategy) -> Iterator[tuple[Path, config.Demands]]:
    if strategy.quality is not None:
        yield ("quality",), strategy.quality
    for place, layer in enumerate(strategy.layers):
        if layer.quality is not None:
            yield ("layers", place, "quality"), layer.quality
    for word, kind in strategy.task_types.items():
        if kind.quality is not None:
            yield ("task_types", word, "quality"), kind.quality
