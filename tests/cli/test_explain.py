"""`escalade explain`: the scores of the issue, the start, and every model with its reason."""

from pathlib import Path

import pytest

from tests.cli.commands import data, run, strategy


@pytest.mark.parametrize(
    ("version", "kind", "files", "tokens", "score", "uncapped", "target"),
    [
        (2, "parse", 0, 0, 0.7, 0.7, "free_primary"),
        (2, "debug", 0, 0, 4.9, 4.9, "free_primary"),
        (2, "refactor", 10, 50_000, 9.6, 9.6, "premium_reserve"),
        (2, "architecture", 10, 50_000, 10, 10.3, "premium_reserve"),
        (1, "architecture", 10, 50_000, 9.6, 9.6, "premium_reserve"),
        (1, "generate", 10, 50_000, 8, 8, "free_primary"),
        (1, "parse", 1, 1, 0.70006, 0.70006, "free_primary"),
    ],
)
def test_scores_are_exact(
    version: int, kind: str, files: int, tokens: int, score: float, uncapped: float, target: str
) -> None:
    found = data(
        run(
            "explain", "--strategy", strategy(version), "--json",
            "--task-type", kind, "--files", str(files), "--tokens", str(tokens),
        )
    )  # fmt: skip
    assert found["score"] == score
    assert found["uncapped_score"] == uncapped
    assert found["threshold"] == 8
    assert found["target_layer"] == target
    assert sum(found["parts"].values()) == pytest.approx(uncapped)


def test_json_has_the_promised_keys() -> None:
    found = data(
        run(
            "explain", "--strategy", strategy(1), "--task-type", "architecture",
            "--files", "10", "--tokens", "50000", "--json",
        )
    )  # fmt: skip
    promised = {
        "score", "parts", "threshold", "target_layer", "start_layer", "selected", "candidates",
    }  # fmt: skip
    assert promised <= found.keys()
    assert found["parts"] == {"files": 3, "depth": 3.6, "context": 3}
    assert found["start_layer"] == "premium_reserve"
    assert found["selected"].keys() == {"layer", "provider", "account", "model"}
    assert found["selected"]["layer"] == "premium_reserve"
    for row in found["candidates"]:
        assert {"layer", "provider", "account", "model", "verdict", "reason"} <= row.keys()
    assert [row["layer"] for row in found["candidates"]] == [
        *["premium_reserve"] * 2, *["budget_fallback"] * 2, *["free_primary"] * 3,
    ]  # fmt: skip


def test_whole_points_are_printed_without_a_fraction() -> None:
    result = run(
        "explain", "--strategy", strategy(2), "--task-type", "architecture",
        "--files", "10", "--tokens", "50000", "--json",
    )  # fmt: skip
    assert '"score": 10,' in result.stdout


def test_missing_keys_are_marked_but_do_not_count() -> None:
    arguments = ("explain", "--strategy", strategy(1), "--task-type", "parse", "--json")
    found = data(run(*arguments, keys=("OPENAI_API_KEY",)))
    credentials = {row["provider"]: row["credential"] for row in found["candidates"]}
    assert credentials["openai"] == "present"
    assert credentials["deepseek"] == "missing"
    assert found["selected"]["model"] == "gpt-4o-mini"
    assert data(run(*arguments))["selected"]["model"] == "gpt-4o-mini"


def test_a_free_only_task_sees_why_paid_layers_are_shut() -> None:
    found = data(
        run(
            "explain", "--strategy", strategy(2), "--task-type", "architecture",
            "--files", "10", "--tokens", "50000", "--free-only", "--json",
        )
    )  # fmt: skip
    assert found["clamped_by"] == "free_only"
    assert found["start_layer"] == "free_primary"
    shut = {row["model"]: row["reason"] for row in found["candidates"] if row["verdict"] != "ok"}
    assert shut["gpt-4o"] == "free_only"


def test_a_task_is_estimated_from_its_message() -> None:
    found = data(
        run(
            "explain", "--strategy", strategy(2), "--json",
            "--message", "Why does this test fail? See app.py and db.py.",
        )
    )  # fmt: skip
    assert found["task_type"] == "debug"
    assert found["estimated"].keys() == {"type", "files", "tokens"}
    assert found["parts"]["files"] == 0.6


def test_stated_tokens_bound_the_cost() -> None:
    def worst(tokens: str) -> int:
        found = data(
            run("explain", "--strategy", strategy(1), "--tokens", tokens, "--json",
                "--task-type", "refactor"),
        )  # fmt: skip
        cost = next(
            row["worst_cost_nano_usd"] for row in found["candidates"] if row["model"] == "gpt-4o"
        )
        assert isinstance(cost, int)
        return cost

    # gpt-4o takes $2.50 per million tokens of input.
    assert worst("50000") - worst("10000") == 40_000 * 2_500


def test_a_stated_complexity_replaces_the_score() -> None:
    found = data(run("explain", "--strategy", strategy(2), "--complexity", "8.000001", "--json"))
    assert found["score"] == 8.000001
    assert found["stated"]
    assert found["start_layer"] == "premium_reserve"


def test_people_get_a_table_and_a_sentence() -> None:
    result = run("explain", "--strategy", strategy(2), "--task-type", "debug")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["layer", "model", "verdict", "at", "most", "key", "why"]
    assert "deepseek/deepseek-chat" in lines[1]
    assert "→ selected" in lines[1]
    assert "No key for deepseek: set DEEPSEEK_API_KEY." in lines
    assert lines[-1] == (
        "Score 4.9 (files 0 + depth 4.9 + context 0) is not above 8: a task of type debug starts"
        " in free_primary, and deepseek/deepseek-chat is asked first (free)."
    )


def test_an_unknown_layer_is_a_mistake_of_usage() -> None:
    result = run("explain", "--strategy", strategy(2), "--highest-layer", "cheap")
    assert result.exit_code == 2
    assert "free_primary, budget_subscription, premium_reserve" in result.stderr


def test_a_bad_file_is_named_with_its_errors() -> None:
    result = run("explain", "--strategy", "nowhere.yaml", "--task-type", "debug")
    assert result.exit_code == 1
    assert "nowhere.yaml" in result.stderr
    assert "cannot be read" in result.stderr
    assert not result.stdout


ACCOUNTS = """\
fallback_strategy:
  layers:
    - {name: free, priority: 1, models: [{provider: openai, model: gpt-4o-mini}]}
providers:
  openai: {accounts: {work: {api_key_env: OPENAI_API_KEY}, spare: {api_key_env: NANOGPT_API_KEY}}}
"""


def test_r18_each_account_has_its_line_and_its_own_key(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(ACCOUNTS)
    found = data(run("explain", "--strategy", str(file), "--json", keys=("OPENAI_API_KEY",)))

    assert found["selected"]["account"] == "work"
    assert [(row["account"], row["credential"]) for row in found["candidates"]] == [
        ("work", "present"),
        ("spare", "missing"),
    ]
    assert "openai/gpt-4o-mini (work) is asked first" in found["sentence"]
    shown = run("explain", "--strategy", str(file)).stdout
    assert "gpt-4o-mini (spare)" in shown
