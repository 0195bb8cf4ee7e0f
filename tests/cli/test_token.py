"""`escalade token`: shown once, kept as a hash, ended when told so."""

import json
from pathlib import Path

import pytest
from click.testing import Result

from escalade_server.core.catalog import Rank
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.tokens import holder
from escalade_server.stores.tokens import SqliteTokens
from tests.cli.commands import run


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite3"


def token(state: Path, *words: str) -> Result:
    return run("token", *words, "--state", str(state))


def listed(state: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(token(state, "list", "--json").stdout)
    return found


def test_a_token_is_shown_once_and_opens(state: Path) -> None:
    made = token(state, "create", "alice", "--role", "operator", "--expires", "30d")
    text = made.stdout.strip()
    tokens, clock = SqliteTokens(f"{state}.tokens", SystemClock()), SystemClock()
    found = holder(text, tokens, clock.now_ms())

    assert made.exit_code == 0
    assert "not shown again" in made.stderr
    assert found is not None
    assert (found.agent, found.rank) == ("alice", Rank.OPERATOR)
    assert found.expires_ms == found.created_ms + 30 * 86_400_000
    secret = text.rpartition("_")[2]
    assert secret not in token(state, "list").output + json.dumps(listed(state)) + made.stderr
    tokens.close()


def test_a_life_of_tokens(state: Path) -> None:
    first = json.loads(token(state, "create", "alice", "--json").stdout)
    second = json.loads(
        token(state, "rotate", first["key_id"], "--expires", "never", "--json").stdout
    )
    assert (second["agent"], second["role"], second["expires"]) == ("alice", "agent", None)
    assert token(state, "revoke", first["key_id"]).exit_code == 0
    assert [(t["key_id"], t["state"]) for t in listed(state)] == [
        (first["key_id"], "revoked"),
        (second["key_id"], "live"),
    ]
    table = token(state, "list").stdout
    assert "never" in table
    assert "revoked" in table


def test_an_old_token_has_expired(state: Path) -> None:
    token(state, "create", "alice", "--expires", "0s")

    assert [t["state"] for t in listed(state)] == ["expired"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "two words"), "an agent's name"),
        (("revoke", "0000"), "there is no token 0000"),
        (("rotate", "0000"), "there is no live token 0000"),
    ],
)
def test_a_mistake_is_one_sentence(state: Path, words: tuple[str, ...], said: str) -> None:
    found = token(state, *words)

    assert found.exit_code == 1
    assert said in found.stderr
    assert "Traceback" not in found.output


def test_the_state_of_a_strategy_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    strategy = tmp_path / "strategy.yaml"
    strategy.write_text(
        "state: here.db\nfallback_strategy:\n  layers:\n    - name: only\n      models:\n"
        "        - {provider: ollama, model: llama3}\n"
    )
    made = run("token", "create", "alice", "--strategy", str(strategy))

    assert made.exit_code == 0, made.output
    assert (tmp_path / "here.db.tokens").exists()
    in_memory = run("token", "list", "--state", "memory:")
    assert in_memory.exit_code == 1
    assert "memory keeps no tokens" in in_memory.stderr
    strategy.write_text("nonsense: true\n")
    broken = run("token", "list", "--strategy", str(strategy))
    assert broken.exit_code == 1
    assert "does not load" in broken.stderr
