"""`escalade complete` on a terminal: text and announcements do not share lines; errors end it."""

import pytest

from escalade import testing
from escalade_server.cli import client
from tests.cli.commands import run

HI = ("complete", "--timeout", "30s", "hi")


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(client.TOKEN, raising=False)
    monkeypatch.delenv(client.CA, raising=False)


def test_what_is_announced_in_mid_answer_has_a_line_of_its_own() -> None:
    script = [
        testing.selected(), testing.text("half an"), testing.retracted(1),
        testing.text("whole", attempt=2), testing.finished(attempt=2),
    ]  # fmt: skip
    with testing.Server([script]) as server:
        result = run(*HI, "--target", server.target)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["half an", "whole"]
    assert "half an\nRetracted: " in result.output


def test_an_error_is_told_once_on_a_line_of_its_own() -> None:
    script = [testing.selected(), testing.text("half an"), testing.failed("INTERRUPTED", "cut off")]
    with testing.Server([script]) as server:
        result = run(*HI, "--target", server.target)
    assert result.exit_code == 1
    assert "half an\nError: INTERRUPTED: cut off" in result.output
    assert result.output.count("cut off") == 1


def test_a_trace_is_named_where_the_error_sends_one_to_it() -> None:
    said = "every model failed; `escalade trace REQUEST_ID` shows why"
    with testing.Server([[testing.failed("ALL_MODELS_FAILED", said)]]) as server:
        result = run(*HI, "--target", server.target)
        asked = server.calls[0].request.request_id
    assert f"`escalade trace {asked}` shows why" in result.stderr


def test_a_server_that_goes_away_in_mid_answer_is_told_as_that() -> None:
    gone = testing.Cut(message="Stream removed")
    with testing.Server([[testing.selected(), testing.text("half an"), gone]]) as server:
        result = run(*HI, "--target", server.target)
    assert result.exit_code == 3
    assert "half an\nError: " in result.output
    assert "the server went away in mid-call; ask again when it is back." in result.stderr


def test_nobody_there_is_said_in_plain_words() -> None:
    with testing.Server([]) as server:
        target = server.target
    result = run(*HI, "--target", target)
    assert result.exit_code == 3
    assert result.stderr == (
        f"Error: nobody listens at {target}: is the server running, and is this its port?"
        " Start `escalade serve`, or give another --target.\n"
    )


@pytest.mark.parametrize("target", ["localhost", "http://127.0.0.1:1", "https://router:50051"])
def test_what_is_no_address_is_a_mistake_of_usage(target: str) -> None:
    result = run(*HI, "--target", target)
    assert result.exit_code == 2
    assert "write HOST:PORT, such as 127.0.0.1:50051." in result.stderr


def test_commands_are_listed_with_what_they_do_whole() -> None:
    text = run("--help").stdout.partition("Commands:")[2]
    assert "..." not in text
    assert "simulated providers, no key and no account." in " ".join(text.split())


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    result = run("chek", "strategy.yaml")
    assert result.exit_code == 2
    assert "No such command 'chek'. Did you mean 'check'?" in result.stderr
    assert "Did you mean" not in run("zzz").stderr
