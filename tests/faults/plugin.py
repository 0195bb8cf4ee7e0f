"""`@pytest.mark.fault("U5")`: which row of rows.toml a test proves, and how its tests ended.

`--fault-results FILE` writes row -> test -> outcome as JSON, also under pytest-xdist: the rows
travel with the report of each test, and the controller writes.
"""

import json
import tomllib
from collections.abc import Generator
from pathlib import Path

import pytest

ROWS = Path(__file__).with_name("rows.toml")
KNOWN = frozenset(tomllib.loads(ROWS.read_text()))
PROPERTY = "fault_rows"
WORSE_LAST = ("passed", "skipped", "failed")


class Results:
    """What became of every test that names a row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        rows = next((value for name, value in report.user_properties if name == PROPERTY), ())
        assert isinstance(rows, list | tuple)
        for row in rows:
            tests = self.outcomes.setdefault(str(row), {})
            so_far = tests.get(report.nodeid, "passed")
            tests[report.nodeid] = max(so_far, report.outcome, key=WORSE_LAST.index)

    def pytest_sessionfinish(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.outcomes, indent=1, sort_keys=True) + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-results", type=Path, metavar="FILE", help="write fault row -> test -> outcome"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(*rows): proves these rows of tests/faults/rows.toml")
    path = config.getoption("--fault-results")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(path), "fault-results")


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(
    collector: pytest.Collector,
) -> Generator[None, object, object]:
    """Note the rows of a test; an unknown row is an error of its module, also under xdist."""
    made = yield
    for item in made if isinstance(made, list) else ():
        rows = sorted({row for mark in item.iter_markers("fault") for row in mark.args or ("",)})
        if unknown := [row for row in rows if row not in KNOWN]:
            raise collector.CollectError(f"{item.nodeid}: no fault row {unknown} in {ROWS.name}")
        if rows:
            item.user_properties.append((PROPERTY, rows))
    return made
