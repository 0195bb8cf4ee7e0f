"""Credentials of the commands that call a server come from the environment."""

from pathlib import Path

import pytest

from escalade_server.cli.client import CA, TOKEN, connect
from escalade_server.cli.output import CommandError

AUTHORITY = Path(__file__).resolve().parents[1] / "api" / "certificates" / "authority.pem"


def test_the_token_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "esc_1_2")
    monkeypatch.delenv(CA, raising=False)
    with connect("127.0.0.1:1") as client:
        assert client._channels.dial.metadata == (("authorization", "Bearer esc_1_2"),)
        assert client._channels.dial.credentials is None
        assert "esc_1_2" not in repr(client) + repr(client._channels.dial)


def test_without_one_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "")
    monkeypatch.delenv(CA, raising=False)
    with connect("127.0.0.1:1") as client:
        assert client._channels.dial.metadata == ()


def test_an_authority_switches_tls_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CA, str(AUTHORITY))
    with connect("127.0.0.1:1") as client:
        assert client._channels.dial.credentials is not None
    monkeypatch.setenv(CA, "nowhere.pem")
    with pytest.raises(CommandError, match="cannot be read"):
        connect("127.0.0.1:1")
