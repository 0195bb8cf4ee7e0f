"""The table of task types, depths and capability words (R2); ``schema`` prints it."""

from dataclasses import dataclass

from escalade_server.core.catalog import TaskType

OTHER = TaskType("other", 5, frozenset())


@dataclass(frozen=True, slots=True)
class TypeRow:
    """One row: reasoning depth, the words of which any one suffices, usual spellings."""

    depth: int
    needs: tuple[str, ...]
    aliases: tuple[str, ...]


TYPES: dict[str, TypeRow] = {
    "parse": TypeRow(1, ("parsing", "simple-tasks"), ("parsing", "parser", "extract")),
    "read": TypeRow(1, ("parsing", "simple-tasks"), ("reading", "file-reading", "file-read")),
    "format": TypeRow(
        1, ("formatting", "simple-tasks", "parsing"), ("formatting", "formatter", "reformat")
    ),
    "plan": TypeRow(
        3,
        (
            "planning",
            "simple-reasoning",
            "moderate-reasoning",
            "moderate-complexity",
            "reasoning",
        ),
        ("planning", "planner"),
    ),
    "generate": TypeRow(
        5,
        ("code-generation", "code-gen", "moderate-complexity", "moderate-reasoning"),
        ("generation", "generating", "code-generation", "code-gen", "codegen", "code", "coding"),
    ),
    "debug": TypeRow(
        7,
        ("debugging", "multi-file-analysis", "complex-tasks"),
        ("debugging", "debugger", "bugfix", "bug-fix", "fix"),
    ),
    "refactor": TypeRow(
        8,
        ("multi-file-refactor", "refactoring", "multi-file-analysis", "complex-tasks"),
        ("refactoring", "multi-file-refactor", "multi-file-refactoring"),
    ),
    "architecture": TypeRow(
        9, ("architecture", "complex-reasoning"), ("architect", "design", "system-design")
    ),
    "reason": TypeRow(9, ("complex-reasoning",), ("reasoning", "complex-reasoning")),
}


def known_words() -> frozenset[str]:
    """List every capability word that a built-in type asks for."""
    return frozenset(word for row in TYPES.values() for word in row.needs)


def vocabulary() -> dict[str, dict[str, object]]:
    """Answer the table as plain data, for printing."""
    return {
        name: {"depth": row.depth, "any_of": list(row.needs), "aliases": list(row.aliases)}
        for name, row in TYPES.items()
    } | {OTHER.name: {"depth": OTHER.depth, "any_of": [], "aliases": []}}
