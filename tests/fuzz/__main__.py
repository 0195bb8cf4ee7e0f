"""Fuzz every target, or those named: two at a time, each in a process of its own.

`python -m tests.fuzz [TARGET ...]` (`make fuzz`) does so many runs of seeded draws, so that it
judges a change; where addresses cannot be fixed (`setarch -R` refused) the draws differ a little.
`--seconds 300` (`make fuzz SECONDS=300`) draws anew for so long. With `--keep` what
reached new code joins the committed corpus.
A finding stands in tests/fuzz/crashes; the command that replays it is printed.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import CORPUS, CRASHES, TARGETS

AT_ONCE = 2
COUNTED_S_MAX = 240
"""Where a counted run stops early, which is no finding: a machine may be busy."""
STARTING_S = 120
"""To start and to read the seeds, on a busy machine; then a process is hung."""
KEPT_BYTES_MAX = 16_384
"""Of what was found for one target; the corpus is committed."""
REGRESSION = "regression-"
SHA1_DIGITS = 40
TOLD = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+)", re.MULTILINE)
PYTHON = [sys.executable, "-m", "tests.fuzz.one"]


@dataclass(frozen=True, slots=True)
class Run:
    """How the fuzzing of one target went."""

    name: str
    output: str
    found: tuple[Path, ...]
    ended_well: bool

    @property
    def row(self) -> str:
        """One line of the table."""
        told = TOLD.search(self.output)
        runs, covered = told.groups() if told else ("-", "-")
        word = "ok" if self.ended_well else "FINDING" if self.found else "FAILED"
        return f"{self.name:<12}{word:<10}{runs:>12} runs{covered:>8} edges"


def fuzz(name: str, given: argparse.Namespace) -> Run:
    """Fuzz one target; what it finds is what is new in the folder of crashes."""
    seconds = given.seconds or COUNTED_S_MAX * given.times
    drawn = [] if given.seconds else ["--seed", str(given.seed), "--times", str(given.times)]
    before = set(CRASHES.glob(f"{name}-*"))
    with tempfile.TemporaryDirectory(prefix="escalade-fuzz-") as folder:
        command = [*(same_addresses() if drawn else []), *PYTHON, name]
        command += ["--work", folder]
        command += ["--seconds", str(seconds), *drawn]
        output, code = run(command, seconds + STARTING_S)
        if given.keep and not code:
            _, code = run([*command, "--merge"], seconds + STARTING_S)
            renew(CORPUS / name, Path(folder) / "seeds")
    found = tuple(sorted(set(CRASHES.glob(f"{name}-*")) - before))
    return Run(name, output, found, ended_well=not code and not found)


def same_addresses() -> list[str]:
    """Run what follows at the same addresses each time, if this machine lets us.

    What the fuzzer draws depends on them; where they differ, a seed still fixes nearly all of it.
    """
    program = shutil.which("setarch")
    if program is None:
        return []
    asked = [program, "-R"]
    tried = subprocess.run([*asked, "true"], check=False, capture_output=True)
    return [] if tried.returncode else asked


def renew(corpus: Path, merged: Path) -> None:
    """Keep the smallest inputs that reach what seeds do not; regressions always stay."""
    for file in corpus.iterdir():
        if not file.name.startswith(REGRESSION):
            file.unlink()
    left = KEPT_BYTES_MAX
    for file in sorted(merged.iterdir(), key=lambda file: file.stat().st_size):
        left -= file.stat().st_size if len(file.name) == SHA1_DIGITS else 0
        if left >= 0 and len(file.name) == SHA1_DIGITS:
            shutil.copy(file, corpus)


def run(command: list[str], limit_s: int) -> tuple[str, int]:
    """Run a command; what it said, and its exit code."""
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            timeout=limit_s,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
    except subprocess.TimeoutExpired as late:
        return f"not done after {limit_s} s: {late.stderr!r}"[-3_000:], 124
    return done.stdout + done.stderr, done.returncode


def main() -> int:
    """Run the targets; the exit code says whether all held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, help="draw anew, and so long for each target")
    parser.add_argument("--seed", type=int, default=1, help="of a counted run")
    parser.add_argument("--times", type=int, default=1, help="the runs of a counted run")
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target is named {', '.join(sorted(unknown))}")
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: atheris has no wheel for this platform; `make test` runs the corpus")
        return 1
    started = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = list(pool.map(lambda name: fuzz(name, given), names))
    for ended in runs:
        print(ended.row)
    for ended in runs:
        if not ended.ended_well:
            print(f"\n--- {ended.name}", ended.output[-3_000:], sep="\n")
        for file in ended.found:
            python = os.path.relpath(sys.executable)
            print(f"replay: {python} -m tests.fuzz.one {ended.name} {os.path.relpath(file)}")
    bad = sum(not ended.ended_well for ended in runs)
    took = time.monotonic() - started
    drawn = f"{given.seconds} s each" if given.seconds else f"seed {given.seed}"
    print(f"fuzz: {len(runs)} targets, {drawn}, {bad} with findings, {took:.0f} s")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
