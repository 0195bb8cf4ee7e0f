"""Bearer tokens: how they are made and ended, and who holds one (D2).

A token is ``esc_<key id>_<secret>``. The key id finds it, the secret proves it: 256 random bits,
so that one SHA-256 is hash enough. The text is answered once, by ``create`` or ``rotate``, and is
nowhere kept.
"""

import hashlib
import hmac
import re
from dataclasses import replace
from typing import Protocol

from escalade_server.core.catalog import Rank
from escalade_server.engine.ports import Clock, StoreError, Token, Tokens, TokenStore

LIVE_MAX = 2
"""Live tokens of one agent: the old and the new one of a rotation (D2)."""
AGENT = re.compile(r"[\x21-\x7e]{1,100}")
"""Names of agents: the same as in the strategy file."""
_TEXT = re.compile(r"esc_([0-9a-f]{1,32})_[0-9a-f]{64}")
_NOBODY = Token("", "", Rank.AGENT, bytes(hashlib.sha256().digest_size), 0)
"""Stands in for a token that there is not; no text has this hash."""


class Draw(Protocol):
    """The chance that a token needs."""

    def key_id(self) -> str:
        """Answer a fresh name; it is no secret."""
        ...

    def secret(self) -> str:
        """Answer 256 random bits as hex digits."""
        ...


def digest_of(text: str) -> bytes:
    """Hash the text of a token."""
    return hashlib.sha256(text.encode(errors="replace")).digest()


def holder(text: str, tokens: Tokens, now_ms: int) -> Token | None:
    """Find the live token with exactly this text.

    Whatever is wrong with it, the same steps are taken: one look-up, one hash, one comparison in
    constant time.

    Raises:
        StoreError: the tokens cannot be read.
    """
    shape = _TEXT.fullmatch(text)
    token = tokens.find(shape[1] if shape else "") or _NOBODY
    is_same = hmac.compare_digest(digest_of(text), token.digest)
    is_live = token.is_live(now_ms)
    return token if is_same and is_live else None


class TokenDesk:
    """Makes tokens and ends them, for an operator. Changes reach a running server by themselves."""

    def __init__(self, tokens: TokenStore, clock: Clock, draw: Draw) -> None:
        """Keep the parts."""
        self._tokens, self._clock, self._draw = tokens, clock, draw

    def all(self) -> tuple[Token, ...]:
        """List every token there ever was, oldest first."""
        return self._tokens.all()

    def create(self, agent: str, rank: Rank, life_ms: int | None) -> tuple[str, Token]:
        """Make a token; its text is told here, and never again.

        Raises:
            StoreError: the agent's name is none, or it has two live tokens already.
        """
        if not AGENT.fullmatch(agent):
            raise StoreError("an agent's name has 1 to 100 signs, none of them blank")
        now_ms = self._clock.now_ms()
        text, token = self._fresh(agent, rank, life_ms, now_ms)
        self._tokens.add(token, now_ms)
        return text, token

    def rotate(self, key_id: str, life_ms: int | None, overlap_ms: int) -> tuple[str, Token]:
        """Make the successor of a token, which goes on for ``overlap_ms`` beside it.

        Raises:
            StoreError: there is no such live token, or its agent has two already.
        """
        now_ms = self._clock.now_ms()
        old = self._tokens.find(key_id)
        if old is None or not old.is_live(now_ms):
            raise StoreError(f"there is no live token {key_id}: see `escalade token list`")
        ends_ms = now_ms + overlap_ms
        if old.expires_ms is not None:
            ends_ms = min(ends_ms, old.expires_ms)
        text, token = self._fresh(old.agent, old.rank, life_ms, now_ms)
        self._tokens.replace(replace(old, expires_ms=ends_ms), token, now_ms)
        return text, token

    def revoke(self, key_id: str) -> Token:
        """End a token at once.

        Raises:
            StoreError: there is no such token.
        """
        return self._tokens.revoke(key_id, self._clock.now_ms())

    def close(self) -> None:
        """Close the store; safe twice."""
        self._tokens.close()

    def _fresh(self, agent: str, rank: Rank, life_ms: int | None, now_ms: int) -> tuple[str, Token]:
        key_id = self._draw.key_id()
        text = f"esc_{key_id}_{self._draw.secret()}"
        expires_ms = None if life_ms is None else now_ms + life_ms
        return text, Token(key_id, agent, rank, digest_of(text), now_ms, expires_ms)
