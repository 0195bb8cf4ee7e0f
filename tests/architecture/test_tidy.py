"""What keeps the repository readable, as rules that fail: sizes, leftovers, links, dead modules."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "server" / "src"
CORE = SERVER / "escalade_server" / "core"
GENERATED = (ROOT / "client_sdk/src/escalade/v1", ROOT / "client_sdk/src/escalade/_sync")
MADE = {"build", "dist", "node_modules", "__pycache__"}  # never tracked, besides hidden folders
HIDDEN_BUT_OURS = {".ci", ".github"}

FILE_LINES, CORE_FILE_LINES, FUNCTION_LINES = 500, 300, 70
ENTRY_POINTS = {
    "escalade_server.cli.main",
    "escalade_server.__main__",
    "escalade_server.simulation.trial",  # `make sim`
}

# Each pattern is split by an empty group, so that this file does not find itself.
LEFTOVER = re.compile(r"TO()DO|FIX()ME|XX()X|NotImplemented()Error")
SKIPPED = re.compile(r"pytest\.(mark\.)?(sk()ip|xf()ail|importor()skip)")
MACHINE = re.compile(r"(?<![\w.}~])/(work|root|home|Users)()/")
REGISTRY = re.compile(
    r"(pypi|crates)\.()(org|io)|python()hosted\.org|npm()js\.(org|com)|proxy\.()golang|repo1?\.()maven"
    r"|--(extra-)?()index-url|--()find-links|--()trusted-host"
)
LINK = re.compile(r"\]\(([^)\s]+?)(#[^)]*)?\)")


def files(*suffixes: str) -> Iterator[Path]:
    """Every file that is, or will be, tracked; none if suffixes are given and not met."""
    for folder, folders, names in os.walk(ROOT):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if (not name.startswith(".") or name in HIDDEN_BUT_OURS)
            and name not in MADE
            and not name.endswith(".egg-info")
            and here / name not in GENERATED
        ]
        for name in names:
            if name != ".coverage" and (not suffixes or name.endswith(suffixes)):
                yield here / name


def source_files() -> list[Path]:
    return sorted(files(".py"))


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def too_long(path: Path, source: str) -> list[str]:
    limit = CORE_FILE_LINES if path.is_relative_to(CORE) else FILE_LINES
    lines = len(source.splitlines())
    found = [f"{where(path)}: {lines} lines, at most {limit}"] if lines > limit else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                found.append(
                    f"{where(path)}:{node.lineno}: {node.name}() has {length} lines,"
                    f" at most {FUNCTION_LINES}"
                )
    return found


def open_arguments(path: Path, source: str) -> list[str]:
    return [
        f"{where(path)}:{node.lineno}: {node.name}() takes **{node.args.kwarg.arg}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg
    ]


def matches(pattern: re.Pattern[str], path: Path, text: str) -> list[str]:
    return [
        f"{where(path)}:{number}: {found[0]}"
        for number, line in enumerate(text.splitlines(), start=1)
        if (found := pattern.search(line))
    ]


def broken_links(path: Path, text: str) -> list[str]:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return [
        f"{where(path)}: {target}"
        for target, _ in LINK.findall(prose)
        if not re.match(r"[a-z]+:", target) and not _leads_somewhere(path, text, target)
    ]


def _leads_somewhere(path: Path, text: str, target: str) -> bool:
    """Tell whether a file is there, and in this one also the heading."""
    file, _, anchor = target.partition("#")
    if file:
        return (path.parent / file).exists()
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


def module_name(path: Path) -> str:
    parts = path.relative_to(SERVER).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, importer: str, known: set[str]) -> set[str]:
    """The modules of ours that a module names in an import, whether at its top or in a function."""
    named: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importer.split(".")[: -node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            named.add(module)
            named.update(f"{module}.{alias.name}" for alias in node.names)
    return named & known


def dead_modules(sources: dict[str, str]) -> list[str]:
    """Modules that no chain of imports from an entry point reaches."""
    waiting = [name for name in sources if name in ENTRY_POINTS]
    reached = set(waiting)
    while waiting:
        name = waiting.pop()
        found = imports(sources[name], name, set(sources)) - reached
        reached |= found
        waiting += found
    packages = {name.rpartition(".")[0] for name in sources}
    return sorted(set(sources) - reached - packages)


def test_files_and_functions_are_short() -> None:
    assert [line for path in source_files() for line in too_long(path, path.read_text())] == []


def test_the_server_says_what_it_takes() -> None:
    ours = [path for path in source_files() if path.is_relative_to(SERVER)]
    assert ours
    assert [line for path in ours for line in open_arguments(path, path.read_text())] == []


@pytest.mark.parametrize("pattern", [LEFTOVER, SKIPPED], ids=["leftover", "skipped"])
def test_nothing_is_left_for_later(pattern: re.Pattern[str]) -> None:
    found = [line for path in source_files() for line in matches(pattern, path, path.read_text())]
    assert found == []


def test_links_of_the_documents_resolve() -> None:
    found = [line for path in files(".md") for line in broken_links(path, path.read_text())]
    assert found == []


@pytest.mark.parametrize("pattern", [MACHINE, REGISTRY], ids=["machine", "registry"])
def test_no_file_names_a_machine_or_a_registry(pattern: re.Pattern[str]) -> None:
    found = [
        line
        for path in files()
        for line in matches(pattern, path, path.read_bytes().decode(errors="ignore"))
    ]
    assert found == []


def test_every_module_of_the_server_is_used() -> None:
    paths = [path for path in source_files() if path.is_relative_to(SERVER)]
    assert dead_modules({module_name(path): path.read_text() for path in paths}) == []


def test_the_rules_see_what_they_forbid() -> None:
    path = CORE / "example.py"
    assert len(too_long(path, "x = 1\n" * (CORE_FILE_LINES + 1))) == 1
    assert too_long(path, "def f():\n" + "    x = 1\n" * (FUNCTION_LINES - 1)) == []
    assert len(too_long(path, "async def f():\n" + "    x = 1\n" * FUNCTION_LINES)) == 1
    assert len(open_arguments(path, "def f(**options): ...")) == 1
    assert len(matches(LEFTOVER, path, "# TO" + "DO later\nraise NotImplemented" + "Error")) == 2
    assert len(matches(SKIPPED, path, "@pytest.mark.sk" + "ipif(x)\npytest.xf" + "ail()")) == 2
    assert len(matches(MACHINE, path, "see /wo" + "rk/x\nhttps://example.test/wo" + "rk/x")) == 1
    assert len(matches(REGISTRY, path, "https://pypi" + ".org/simple")) == 1
    assert (
        len(broken_links(ROOT / "x.md", "[a](no.md) [b](Makefile#x) `[c](d)` [e](https://f)")) == 1
    )
    sources = {
        "escalade_server.cli.main": "from escalade_server import used",
        "escalade_server.used": "def f():\n    from .deep import other",
        "escalade_server.deep.other": "",
        "escalade_server.dead": "from escalade_server import dead_too",
        "escalade_server.dead_too": "from escalade_server import dead",
    }
    assert dead_modules(sources) == ["escalade_server.dead", "escalade_server.dead_too"]
