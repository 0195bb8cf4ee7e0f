"""`escalade check`: errors with their place and mend, advice, and exit codes."""

import json
from pathlib import Path

import pytest

from tests.cli.commands import data, run, strategy

BAD = """\
fallback_strategy:
  layers:
    - name: free
      modles:
        - provider: openai
          model: gpt-4o-mini
      priority: first
"""


@pytest.mark.parametrize("version", [1, 2])
def test_the_reference_files_load(version: int) -> None:
    result = run("check", strategy(version))
    assert result.exit_code == 0
    assert "loads: 3 layers, 7 models." in result.stdout
    assert "set OPENAI_API_KEY" in result.stdout
    assert "is not yet in effect" not in result.stdout


def test_notices_are_data() -> None:
    found = data(run("check", strategy(2), "--json"))
    assert found["valid"] is True
    assert found["errors"] == []
    retired = [notice for notice in found["notices"] if notice["code"] == "RETIRED_MODEL"]
    assert retired
    for notice in retired:
        assert notice["line"] > 0
        assert notice["level"] == "warning"
        assert notice["mend"]
    assert all(key["line"] >= 0 and key["sentence"] for key in found["not_yet_in_effect"])


def test_every_error_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    result = run("check", str(file))
    assert result.exit_code == 1
    assert f"{file}:4:" in result.stderr
    assert 'did you mean "models"?' in result.stderr
    assert "does not load" in result.stderr.splitlines()[-1]
    assert not result.stdout


def test_errors_are_data(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    result = run("check", str(file), "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["valid"] is False
    assert [error["line"] for error in found["errors"]]
    assert found["errors"][0].keys() == {
        "file", "line", "column", "key", "problem", "found", "allowed", "mend",
    }  # fmt: skip


def test_without_a_file_it_is_a_mistake_of_usage() -> None:
    result = run("check")
    assert result.exit_code == 2
