"""Bearer tokens in Redis, as `escalade token` keeps them; servers hear of them with their looks."""

from escalade_server.engine.ports import StoreError, Token
from escalade_server.engine.tokens import LIVE_MAX
from escalade_server.stores.redis_desk import RedisDesk
from escalade_server.stores.redis_link import Place
from escalade_server.stores.redis_shared import row_of, tokens_of
from escalade_server.stores.redis_wire import Shared


class RedisTokens:
    """``TokenStore`` over Redis or Valkey, for a program without an event loop."""

    def __init__(self, place: Place) -> None:
        """Say where; the first call connects."""
        self._desk = RedisDesk(place)

    def find(self, key_id: str) -> Token | None:
        """Look a token up, live or not."""
        return next((token for token in self.all() if token.key_id == key_id), None)

    def all(self) -> tuple[Token, ...]:
        """List every token there ever was, oldest first."""
        told = self._desk.run("tokens", "all").shared
        return _read(told)

    def add(self, token: Token, now_ms: int) -> None:
        """Keep a new token; see ``TokenStore``."""
        self._add(token, None, now_ms)

    def replace(self, old: Token, token: Token, now_ms: int) -> None:
        """Keep an old token's new end, and add its successor."""
        self._add(token, old, now_ms)

    def revoke(self, key_id: str, now_ms: int) -> Token:
        """End a token at once and for good."""
        reply = self._desk.run("tokens", "revoke", key_id, LIVE_MAX, now_ms)
        if reply.kind == "unknown":
            raise StoreError(f"there is no token {key_id}: see `escalade token list`")
        return next(token for token in _read(reply.shared) if token.key_id == key_id)

    def close(self) -> None:
        """Disconnect; safe twice."""
        self._desk.close()

    def _add(self, token: Token, old: Token | None, now_ms: int) -> None:
        before = None if old is None else (old.key_id, row_of(old).expires_ms)
        row = row_of(token)
        reply = self._desk.run("tokens", "add", row, LIVE_MAX, now_ms, before)
        if reply.kind == "full":
            raise StoreError(
                f"{token.agent} has {LIVE_MAX} live tokens, as many as a rotation needs:"
                " revoke one first"
            )


def _read(told: Shared | None) -> tuple[Token, ...]:
    assert told is not None, "the script tells all tokens"
    return tuple(tokens_of(told.rows))
