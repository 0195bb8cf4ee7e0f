"""`escalade schema`, `version`, and what all commands share."""

import tomllib
from pathlib import Path

import click
import pytest
from rich.console import Console

from escalade_server.cli import output
from tests.cli.commands import data, run

SERVER = Path(__file__).resolve().parents[2] / "server"


def test_the_schema_knows_the_top_of_the_file() -> None:
    schema = data(run("schema"))
    assert "fallback_strategy" in schema["properties"]
    assert schema["$schema"].startswith("https://json-schema.org/")


def test_the_words_are_a_table() -> None:
    result = run("schema", "--words")
    debug = next(line for line in result.stdout.splitlines() if line.startswith("debug "))
    assert debug.split()[1] == "7"
    assert "multi-file-analysis" in debug
    words = data(run("schema", "--words", "--json"))
    assert words["architecture"]["depth"] == 9


def test_the_version_is_the_distributions() -> None:
    project = tomllib.loads((SERVER / "pyproject.toml").read_text())["project"]
    assert run("version").stdout == f"escalade {project['version']}\n"
    assert data(run("version", "--json")) == {"version": project["version"]}


GROUPS = {"token": ["create", "list", "revoke", "rotate"], "ledger": ["adjust", "set", "show"]}


def test_every_command_has_help_and_json() -> None:
    listed = run("--help")
    assert listed.exit_code == 0
    commands = listed.stdout.partition("Commands:")[2].split("\n")
    names = [line.split()[0] for line in commands if line.startswith("  ") and line[2] != " "]
    assert {"check", "complete", "explain", "schema", "serve", "status"} <= set(names)
    for name in names:
        words = run(name, "--help").stdout
        below = GROUPS.get(name, [])
        assert all(f"  {each} " in words for each in below)
        for each in [[name, each] for each in below] or [[name]]:
            assert "--json" in run(*each, "--help").stdout, each


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("500ms", 0.5), ("2m", 120), ("1.5h", 5400), ("7", 7), ("2d", 172_800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert output.Duration().convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1s", "soon", "1w"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 30s"):
        output.Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("spent", "held", "limit", "bar"),
    [
        (0, 0, 50, "░░░░░░░░░░"),
        (1, 0, 50, "█░░░░░░░░░"),
        (25, 10, 50, "█████▒▒░░░"),
        (50, 0, 50, "██████████"),
        (60, 5, 50, "██████████"),
        (0, 0, 0, "██████████"),
    ],
)
def test_a_bar_shows_what_is_spent_and_held(spent: int, held: int, limit: int, bar: str) -> None:
    out = Console(file=None, legacy_windows=False)
    if not out.encoding.startswith("utf"):
        bar = bar.translate(str.maketrans("█▒░", "#+."))
    assert output.bar(spent, held, limit, out, width=10) == bar


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "$0.00"),
        (1_500_000, "$0.0015"),
        (1_000_000_000, "$1.00"),
        (1_234_560_000_000, "$1,234.56"),
    ],
)
def test_money_in_words(nanos: int, text: str) -> None:
    assert output.usd(nanos) == text
