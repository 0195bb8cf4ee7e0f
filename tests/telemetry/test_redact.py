"""Secrets stay out of the log, also those that others quote (D6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.telemetry.logs import Format
from escalade_server.telemetry.redact import GONE, Redactor
from tests.telemetry.test_logs import Log

TOKEN = "esc_0a1b2c_" + "f" * 64
SHAPES = (
    ("Incorrect API key provided: sk-proj-abcdefghij0123456789", "Incorrect API key provided: "),
    ("key AIzaSyA1234567890123456789012345678901 is not valid", "key "),
    ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer "),
    ('{"authorization": "abcdefgh", "x": 1}', '{"authorization": "'),
    ("x-api-key=verysecretvalue&y=1", "x-api-key="),
    ("x-goog-api-key: verysecretvalue", "x-goog-api-key: "),
    ("redis://user:hunter2@redis:6379/0", "redis://"),
    ("https://hooks:s3cr3t@example.com/x", "https://"),
    (f"the token {TOKEN} has expired", "the token "),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig", ""),
    ("password = hunter2!", "password = "),
)


@pytest.mark.parametrize(("text", "kept"), SHAPES)
def test_what_looks_like_a_secret_is_taken_out(text: str, kept: str) -> None:
    said = Redactor().text(text)
    assert said.startswith(f"{kept}{GONE}"), said
    for secret in ("abcdefghij", "SyA12", "hunter2", "s3cr3t", "fff", "very", "abc.", "eyJ"):
        assert secret not in said


@pytest.mark.parametrize(
    "text",
    [
        "50 of 50 requests today, until 2026-11-24T00:00Z",
        "no model of free can be used: openai/gpt-4o-mini: 50 of 50 requests today",
        "https://openrouter.ai/api/v1 answered 502 Bad Gateway",
        "nano-gpt/glm-5 has 1,234 tokens/day; secret ingredients",
        "token budget exhausted; see `escalade token list`",
    ],
)
def test_what_people_need_stays(text: str) -> None:
    assert Redactor(["key-of-somebody"]).text(text) == text


@given(st.text(min_size=6), st.text(), st.text())
def test_a_known_secret_is_found_wherever_it_stands(secret: str, before: str, after: str) -> None:
    said = Redactor([secret]).text(before + secret + after)
    assert secret not in said.replace(GONE, "\0" if "\0" not in secret else "\1")


def test_more_is_learnt_when_another_strategy_is_put_in_force() -> None:
    redactor = Redactor(["first-key", "ab"])
    redactor.learn(["second-key"])
    assert redactor.text("first-key second-key ab") == f"{GONE} {GONE} ab"


@pytest.mark.parametrize("form", ["json", "text"])
def test_nothing_secret_passes_the_log(form: Format) -> None:
    log = Log(form=form, secrets=["planted-key"])
    log.logger.error(
        "x", detail="planted-key", deep={"a": ["planted-key", ("planted-key", 1)]},
        raw=b"planted-key", of=RuntimeError("planted-key"), many={"planted-key"},
    )  # fmt: skip
    text = log.text()
    assert text.count(GONE) == 6
    assert "planted-key" not in text
