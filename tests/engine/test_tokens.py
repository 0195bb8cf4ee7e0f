"""A token is looked for the same way whatever is wrong with it (D2)."""

import hmac
from types import SimpleNamespace

import pytest

from escalade_server.core.catalog import Rank
from escalade_server.engine import tokens
from escalade_server.engine.entropy import SystemEntropy
from escalade_server.engine.ports import Token
from escalade_server.engine.tokens import digest_of, holder

NOW_MS = 1_790_000_000_000
GOOD = f"esc_{'a1' * 8}_{'0f' * 32}"


class One:
    """Knows a single token, and what it was asked for."""

    def __init__(self, **changed: int) -> None:
        self.asked: list[str] = []
        self.token = Token(
            "a1" * 8, "alice", Rank.AGENT, digest_of(GOOD), NOW_MS,
            changed.get("expires_ms"), changed.get("revoked_ms"),
        )  # fmt: skip

    def find(self, key_id: str) -> Token | None:
        self.asked.append(key_id)
        return self.token if key_id == self.token.key_id else None

    def all(self) -> tuple[Token, ...]:
        return (self.token,)

    def add(self, token: Token, now_ms: int) -> None:
        raise AssertionError

    def replace(self, old: Token, token: Token, now_ms: int) -> None:
        raise AssertionError

    def revoke(self, key_id: str, now_ms: int) -> Token:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def test_the_holder_of_the_text_is_known() -> None:
    known = One()

    assert holder(GOOD, known, NOW_MS) is known.token


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (GOOD, {"expires_ms": NOW_MS}),
        (GOOD, {"revoked_ms": NOW_MS - 1}),
        (GOOD[:-1] + "0", {}),
        (GOOD.replace("a1", "b2"), {}),
        ("nonsense", {}),
        ("", {}),
    ],
)
def test_each_wrong_text_costs_one_look_one_hash_and_one_comparison(
    monkeypatch: pytest.MonkeyPatch, text: str, changed: dict[str, int]
) -> None:
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    known = One(**changed)
    monkeypatch.setattr(tokens, "hmac", SimpleNamespace(compare_digest=compare))

    assert holder(text, known, NOW_MS) is None
    assert len(known.asked) == 1
    assert compared == [(32, 32)]


def test_a_secret_has_256_bits_of_the_systems_chance() -> None:
    drawn = {SystemEntropy.secret() for _ in range(100)}

    assert len(drawn) == 100
    assert {len(bytes.fromhex(each)) for each in drawn} == {32}
    assert {len(bytes.fromhex(SystemEntropy.key_id())) for _ in range(9)} == {8}
