"""The marker gathers results under xdist, too; the page and its check say what has no proof."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import fault_coverage

ROOT = Path(__file__).resolve().parents[2]
ROWS = """
[U1]
fault = "refused"
must = "next model"
[U2]
fault = "expired"
must = "an alert"
[S8]
fault = "down"
must = "closed"
later = "not built"
"""
MARKED = """
import pytest
@pytest.mark.fault("U1")
@pytest.mark.parametrize("n", [0, 1, pytest.param(2, marks=pytest.mark.fault("U2"))])
def test_both(n):
    assert n < {bound}
def test_unmarked():
    pass
"""


def run_pytest(folder: Path, source: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_marked.py").write_text(source)
    results = folder / "made" / "results.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.faults.plugin",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "-n", "2", f"--fault-results={results}", "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, results


def test_outcomes_are_gathered_from_the_workers(tmp_path: Path) -> None:
    _, results = run_pytest(tmp_path, MARKED.format(bound=2))

    assert json.loads(results.read_text()) == {
        "U1": {
            "test_marked.py::test_both[0]": "passed",
            "test_marked.py::test_both[1]": "passed",
            "test_marked.py::test_both[2]": "failed",
        },
        "U2": {"test_marked.py::test_both[2]": "failed"},
    }


@pytest.mark.parametrize("row", ["'U99'", ""])
def test_an_unknown_row_ends_the_run(tmp_path: Path, row: str) -> None:
    source = f"import pytest\n@pytest.mark.fault({row})\ndef test_it(): pass\n"

    done, _ = run_pytest(tmp_path, source)

    assert done.returncode != 0
    assert "no fault row" in done.stdout + done.stderr


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rows.toml").write_text(ROWS)
    monkeypatch.setattr(fault_coverage, "ROWS", tmp_path / "rows.toml")
    monkeypatch.setattr(fault_coverage, "PAGE", tmp_path / "page.md")
    return tmp_path / "results.json"


def ended(results: Path, outcomes: dict[str, dict[str, str]], *, check: bool) -> int:
    results.write_text(json.dumps(outcomes))
    return fault_coverage.main([str(results), *(["--check"] if check else [])])


PROVED = {
    "U1": {"tests/a/test_x.py::test_z[1]": "passed", "tests/a/test_x.py::test_z[2]": "passed"},
    "U2": {"tests/a/test_x.py::test_y": "passed"},
}


def test_a_complete_page_passes_and_an_old_one_does_not(results: Path) -> None:
    assert ended(results, PROVED, check=True) == 1  # there is no page yet
    assert ended(results, PROVED, check=False) == 0
    assert ended(results, PROVED, check=True) == 0

    text = fault_coverage.PAGE.read_text()

    assert "| U1 | refused | next model | `a/test_x.py::test_z` [2 cases] | passed |" in text
    assert "| U2 | expired | an alert | `a/test_x.py::test_y` | passed |" in text
    assert "| S8 | down | closed |  | later: not built |" in text
    assert "2 of 3 faults have a passing test; 1 wait" in text

    more = {**PROVED, "U2": {"tests/a/test_x.py::test_other": "passed"}}
    assert ended(results, more, check=True) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"U2": {}}, "U2 no test"),
        ({"U2": {"t.py::a": "failed", "t.py::b": "passed"}}, "U2 failed"),
        ({"U2": {"t.py::a": "skipped"}}, "U2 skipped"),
        ({"S8": {"t.py::a": "passed"}}, "S8 has tests, so it is not `later`"),
    ],
)
def test_a_gap_fails_the_check(
    results: Path,
    change: dict[str, dict[str, str]],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(results, PROVED | change, check=False) == 0

    assert ended(results, PROVED | change, check=True) == 1
    assert said in capsys.readouterr().out


def test_results_that_are_not_there_are_asked_for(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fault_coverage.main([str(results)]) == 1
    assert "make test e2e" in capsys.readouterr().out
