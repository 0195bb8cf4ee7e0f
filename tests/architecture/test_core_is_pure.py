"""The core decides and does nothing else: it imports only what cannot wait, read or roll dice.

An allow-list, because a list of what is forbidden forgets (import-linter holds the other levels).
"""

import ast
import re
from pathlib import Path

import pytest

SERVER = Path(__file__).resolve().parents[2] / "server" / "src"
CORE = SERVER / "escalade_server" / "core"
ALLOWED = {
    "bisect",
    "collections",
    "collections.abc",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
}
ALLOWED |= {"heapq", "itertools", "json", "math", "operator", "re", "typing"}
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval", "compile", "__import__"}
MODULES = sorted(CORE.rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


def within(name: str) -> bool:
    """Whether an import stays inside the core, which is one flat folder."""
    package = "escalade_server.core"
    return (
        name == package or name.startswith(package + ".") or re.match(r"\.(?!\.)", name) is not None
    )


def impure(source: str) -> list[str]:
    """What of a core module's source breaks the rule."""
    tree = ast.parse(source)
    foreign = {name for name in imported(tree) if name not in ALLOWED and not within(name)}
    waits = {
        type(node).__name__
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
    }
    calls = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return sorted(foreign | waits | (calls & FORBIDDEN_CALLS))


def test_there_is_a_core_to_look_at() -> None:
    assert len(MODULES) > 1


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_core_imports_only_pure_modules_and_never_waits(module: Path) -> None:
    assert impure(module.read_text()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", ["time"]),
        ("from os.path import join", ["os.path"]),
        ("import json, random", ["random"]),
        ("from escalade_server.engine import ports", ["escalade_server.engine"]),
        ("from escalade_server import stores", ["escalade_server"]),
        ("from escalade_server.core_extra import x", ["escalade_server.core_extra"]),
        ("from ..engine import ports", ["..engine"]),
        ("async def f(): await g()", ["AsyncFunctionDef", "Await"]),
        ("def f(): return __import__('time')", ["__import__"]),
        ("from escalade_server.core import task\nfrom collections.abc import Mapping", []),
    ],
)
def test_the_rule_sees_what_it_forbids(source: str, found: list[str]) -> None:
    assert impure(source) == found
