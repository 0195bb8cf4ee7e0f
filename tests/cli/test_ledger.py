"""`escalade ledger`: shows, sets and adjusts, and keeps who, when and why."""

import getpass
import json
from pathlib import Path

import pytest
from click.testing import Result

from escalade_server import bootstrap
from tests.cli.commands import run

STRATEGY = """\
fallback_strategy:
  layers:
    - name: paid
      priority: 1
      billing: metered
      monthly_cap: $8
      models:
        - {provider: openai, model: gpt, price: {input: 1, output: 2}, rate_limit: 50/day}
state: %s
"""
CAP = "nanos/month:layer/paid"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "strategy.yaml"
    file.write_text(STRATEGY % (tmp_path / "state.sqlite3"))
    return file


@pytest.fixture
def made(file: Path) -> Path:
    """A strategy whose ledger a server has made."""

    async def once() -> None:
        options = bootstrap.Options(strategy=str(file), port=0, grace_s=0.1)
        await (await bootstrap.start(options, environ={})).stop()

    bootstrap.run(once())
    return file


def ledger(file: Path, *words: str) -> Result:
    return run("ledger", *words, "--strategy", str(file))


def test_what_was_spent_elsewhere_is_entered_and_audited(made: Path) -> None:
    why = ("--reason", "bill of May")
    assert ledger(made, "set", CAP, "$1.50", *why).exit_code == 0
    changed = ledger(made, "adjust", "paid monthly cap", "-0.25", *why, "--json")
    told = json.loads(changed.stdout)
    assert (told["old"], told["new"], told["unit"]) == (1_500_000_000, 1_250_000_000, "nanos")
    assert ledger(made, "adjust", "requests/day:openai/default/gpt", "+7", *why).exit_code == 0

    shown = json.loads(ledger(made, "show", "--json").stdout)
    assert {c["counter"]: (c["spent"], c["limit"]) for c in shown["counters"]} == {
        CAP: (1_250_000_000, 8_000_000_000),
        "requests/day:openai/default/gpt": (7, 50),
    }
    assert [entry["reason"] for entry in shown["audit"]] == ["bill of May"] * 3
    assert {entry["who"].split()[0] for entry in shown["audit"]} == {getpass.getuser()}
    table = ledger(made, "show").stdout
    for words in ("$1.25", "$8.00", "bill of May", CAP):
        assert words in table


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("set", CAP, "1.50"), 2, "--reason"),
        (("set", CAP, "1.50", "--reason", " "), 2, "audit"),
        (("set", CAP, "much", "--reason", "x"), 2, "dollars"),
        (("set", CAP, "inf", "--reason", "x"), 2, "dollars"),
        (("set", CAP, "-1", "--reason", "x"), 2, "option"),
        (("adjust", CAP, "-1", "--reason", "x"), 1, "0 or more"),
        (("set", "requests/day:openai/default/gpt", "1.5", "--reason", "x"), 2, "whole"),
        (("set", "nobody", "1", "--reason", "x"), 1, "no counter"),
    ],
)
def test_what_is_refused_says_the_mend(
    made: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    told = ledger(made, *words)
    assert told.exit_code == code
    assert said in told.output
    assert json.loads(ledger(made, "show", "--json").stdout) == {"counters": [], "audit": []}


def test_without_a_ledger_there_is_nothing_to_show(file: Path) -> None:
    told = ledger(file, "show")
    assert told.exit_code == 1
    assert "is not there" in told.output


def test_a_name_that_no_counter_has_is_told_with_those_there_are(made: Path) -> None:
    result = ledger(made, "adjust", "premium monthly cap", "+1.50", "--reason", "by hand")
    assert result.exit_code == 1
    assert "no counter is named 'premium monthly cap'" in result.stderr
    assert '"paid monthly cap"' in result.stderr
