"""Where notices go: addresses outside the file, checked, and never shown (D5, D6)."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from escalade_server.strategy.load import Loaded, load
from escalade_server.strategy.notifications import NO_ADDRESS

GOOD = """
fallback_strategy:
  layers:
    - name: free
      models: [{provider: ollama, model: m}]
"""


def loaded(folder: Path, more: str, environ: Mapping[str, str]) -> Loaded:
    file = folder / "strategy.yaml"
    file.write_text(f"{GOOD}{more}\n")
    return load(file, environ=environ)


HOOK = "notifications: {webhooks: [{url_env: HOOK, secret_env: KEY, body: slack}]}"


def test_without_a_section_the_log_is_told(tmp_path: Path) -> None:
    found = loaded(tmp_path, "", {}).sinks
    assert (found.hooks, found.log) == ((), True)
    assert loaded(tmp_path, "notifications: {log: false}", {}).sinks.log is False


def test_a_hook_is_read_from_environment_and_files(tmp_path: Path) -> None:
    environ = {"HOOK": "https://hooks.example/T1/B2", "KEY": "k1"}
    [hook] = loaded(tmp_path, HOOK, environ).sinks.hooks
    assert (hook.name, hook.slack, hook.missing) == ("HOOK", True, "")
    assert hook.url is not None
    assert hook.key is not None
    assert (hook.url.reveal(), hook.key.reveal()) == (environ["HOOK"], "k1")
    assert "T1" not in repr(hook)
    (tmp_path / "url.txt").write_text("http://127.0.0.1:9/x\n")
    (tmp_path / "url.txt").chmod(0o600)
    by_file = "notifications: {webhooks: [{url_file: url.txt}]}"
    [hook] = loaded(tmp_path, by_file, {}).sinks.hooks
    assert hook.url is not None
    assert (hook.url.reveal(), hook.slack, hook.key) == ("http://127.0.0.1:9/x", False, None)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example/x", "must begin with https://"),
        ("ftp://hooks.example/x", "must begin with https://"),
        ("http://127.0.0.1.evil.example/x", "must begin with https://"),
        ("http://localhost.evil.example/x", "must begin with https://"),
        ("https://user:word@hooks.example/x", "holds a name and password"),
        ("https:///x", "is none"),
        ("https://[half/x", "is none"),
        ("https://hooks.example:port/x", "is none"),
        ("CANARY", "is none"),
        ("https://hooks.example/with blank", "characters that no key has"),
        ("", "set HOOK"),
    ],
)
def test_an_address_that_is_not_used_says_why_and_not_which(
    tmp_path: Path, url: str, why: str
) -> None:
    found = loaded(tmp_path, HOOK, {"HOOK": url, "KEY": "k"})
    [hook] = found.sinks.hooks
    assert why in hook.missing
    assert hook.url is None
    [notice] = [each for each in found.notices if each.code == "NO_WEBHOOK"]
    assert why in notice.sentence
    assert not url or url not in str(notice)


def test_a_hook_whose_secret_is_missing_is_not_used_unsigned(tmp_path: Path) -> None:
    [hook] = loaded(tmp_path, HOOK, {"HOOK": "https://hooks.example/x"}).sinks.hooks
    assert hook.url is None
    assert "set KEY" in hook.missing


def test_a_hook_without_any_address_says_so(tmp_path: Path) -> None:
    [hook] = loaded(tmp_path, "notifications: {webhooks: [{body: plain}]}", {}).sinks.hooks
    assert hook.missing == NO_ADDRESS
