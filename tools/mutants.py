"""Plant ten bugs, one at a time, in a copy of the tree: the tests named for each must catch it.

`python tools/mutants.py [NAME ...]`. A bug is an exact text of one source file and what stands
there instead; a text that does not stand there just once fails the script, so that the table
follows the code. Only failed tests count as caught: a file that cannot be imported does not.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = Path("server/src/escalade_server")
COPIED = ("client_sdk", "server", "tests", "pyproject.toml", ".importlinter")
AT_ONCE = 2
LIMIT_S = 300
TESTS_FAILED = 1
"""The exit code of pytest that says so; any other says that it could not judge."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug, where it is planted, and who must find it."""

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "reserve without check",
        "stores/books.py",
        "            if denial is None:\n                self._hold(",
        "            if True:\n                self._hold(",
        ("tests/stores/test_contract.py::test_200_at_once_on_50_are_exactly_50",),
    ),
    Mutant(
        "settle twice",
        "stores/books.py",
        "        if known is None or known.state is State.SETTLED or known.digest:\n",
        "        if known is None:\n",
        ("tests/stores/test_contract.py::test_a_settlement_books_what_was_used_once",),
    ),
    Mutant(
        "late event accepted",
        "core/calling.py",
        "        if live is None or live.number != news.attempt:\n"
        "            return self._hear_drained(",
        "        if live is None:\n            return self._hear_drained(",
        ("tests/core/test_calling.py",),
    ),
    Mutant(
        "missing announcement",
        "core/change.py",
        "        told.append(escalated)\n",
        "",
        ("tests/core/test_cascade.py",),
    ),
    Mutant(
        "spliced text",
        "core/aftermath.py",
        "        self.cut = failure if live.delivered else self.cut\n"
        "        _retract(live, failure, out)\n",
        "        self.cut = failure if live.delivered else self.cut\n",
        ("tests/core/test_cascade.py",),
    ),
    Mutant(
        "cooldown ignored",
        "core/policy.py",
        "        if bench is not None and bench.until_ms > now_ms:\n            cls = ",
        "        if bench is not None and bench.until_ms > now_ms + (1 << 62):\n            cls = ",
        ("tests/core/test_policy.py",),
    ),
    Mutant(
        "breaker never closing",
        "core/breaker.py",
        "    if ok:\n        return Breaker()\n",
        "    if ok:\n        return breaker\n",
        ("tests/core/test_breaker.py",),
    ),
    Mutant(
        "leak on cancel",
        "core/cascade.py",
        "            self._aftermath.book(live, settlement.NOT_SENT, status, self._now, "
        "self._out)\n            return\n",
        "            return\n",
        ("tests/core/test_cascade_endings.py",),
    ),
    Mutant(
        "free-only ignored",
        "core/policy.py",
        "    elif need.free_only and layer.is_paid:\n",
        "    elif need.free_only and layer.is_paid and model.price is None:\n",
        ("tests/core/test_policy.py",),
    ),
    Mutant(
        "key in a log",
        "providers/http.py",
        'f"header {name!r}: a character',
        'f"header {name!r}: {value!r}: a character',
        ("tests/providers/test_http_failures.py",),
    ),
)


def plant(mutant: Mutant, tree: Path) -> str:
    """Change the file of a copy; answer what is wrong with the table, or nothing."""
    file = tree / SOURCES / mutant.file
    source = file.read_text()
    found = source.count(mutant.text)
    if found != 1:
        return f"its text stands {found} times in {mutant.file}, not once"
    file.write_text(source.replace(mutant.text, mutant.instead))
    return ""


def judge(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests in a copy; the exit code of pytest, and its last lines."""
    sources = [str(tree / folder) for folder in ("server/src", "client_sdk/src")]
    told = {"PYTHONPATH": os.pathsep.join(sources), "HYPOTHESIS_PROFILE": "ci"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env=os.environ | told, check=False,
            capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, f"not done after {LIMIT_S} s"
    return done.returncode, done.stdout[-1_500:]


def copied(folder: Path, name: str) -> Path:
    """Copy what the tests need."""
    tree = folder / name.replace(" ", "-")
    tree.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "crashes")
    for part in COPIED:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tree / part, ignore=ignored)
        else:
            shutil.copy(source, tree / part)
    return tree


def fate(folder: Path, mutant: Mutant) -> tuple[str, str]:
    """Plant one bug: `caught`, `survived`, or why nobody can say; and what the tests said."""
    tree = copied(folder, mutant.name)
    wrong = plant(mutant, tree)
    if wrong:
        return "NOT PLANTED", wrong
    code, said = judge(tree, mutant.tests)
    shutil.rmtree(tree)
    if code == TESTS_FAILED:
        return "caught", said
    return ("SURVIVED" if code == 0 else "NOT JUDGED"), said


def main(names: list[str]) -> int:
    """Plant the bugs; the exit code says whether all were caught."""
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        print(f"mutants: none is named {', '.join(sorted(unknown))}")
        return 2
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="escalade-mutants-") as made:
        folder = Path(made)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            sound = pool.submit(lambda: judge(copied(folder, "sound"), tests))
            fates = list(pool.map(lambda mutant: fate(folder, mutant), chosen))
        code, said = sound.result()
    for mutant, (word, _) in zip(chosen, fates, strict=True):
        print(f"{mutant.name:<24}{word:<12}{mutant.file}")
    bad = [(m.name, *told) for m, told in zip(chosen, fates, strict=True) if told[0] != "caught"]
    if code:
        bad.append(("without any bug", "NOT SOUND", said))
    for name, word, told in bad:
        print(f"\n--- {name}: {word}", told, sep="\n")
    caught = sum(word == "caught" for word, _ in fates)
    print(f"mutants: {caught} of {len(chosen)} caught, {time.monotonic() - started:.0f} s")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
