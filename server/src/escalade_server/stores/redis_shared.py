"""What a server hears of the others with each look: how many live, its duties, the tokens.

Nothing here is asked for: it is as old as the last look that succeeded, and too old to be believed
after a while.
"""

from collections.abc import Callable

from escalade_server.core.catalog import Rank
from escalade_server.engine.ports import Duty, StoreError, Token
from escalade_server.stores.redis_wire import Shared, TokenRow

DUTY_MS = 5_000
"""A duty that is not renewed for as long passes to another server."""
DUTIES = tuple(duty.value for duty in Duty)
STALE_S = 600.0
"""How long tokens are believed while Redis is gone: one that was revoked opens no longer (D2)."""


class SharedState:
    """``Leadership`` and ``Tokens`` as last told; on the event loop."""

    def __init__(self, time_s: Callable[[], float]) -> None:
        """``time_s`` is a clock that never jumps."""
        self._time_s = time_s
        self.owners = 1
        """Servers that share the ledger, this one among them."""
        self.version = ""
        """Of the tokens."""
        self._duties: frozenset[str] = frozenset()
        self._until_s = 0.0
        self._told_s = float("-inf")
        self._tokens: dict[str, Token] = {}

    def take(self, told: Shared, asked_s: float) -> None:
        """Take what a look told that was asked at an instant: duties last from then on."""
        self.owners = max(told.owners, 1)
        self._duties, self._until_s = frozenset(told.duties), asked_s + DUTY_MS / 1_000
        self._told_s = asked_s
        if told.tokens != self.version:
            self.version = told.tokens
            self._tokens = {token.key_id: token for token in tokens_of(told.rows)}

    def holds(self, duty: Duty) -> bool:
        """Tell whether this server has a duty; see ``Leadership``."""
        return duty.value in self._duties and self._time_s() < self._until_s

    def find(self, key_id: str) -> Token | None:
        """Look a token up, as of the last look; see ``Tokens``."""
        if self._time_s() - self._told_s > STALE_S:
            raise StoreError("Redis is gone for so long that no token can be believed")
        return self._tokens.get(key_id)

    def all(self) -> tuple[Token, ...]:
        """List every token there ever was, oldest first."""
        return tuple(self._tokens.values())


def tokens_of(rows: list[TokenRow]) -> list[Token]:
    """Read tokens, oldest first."""
    rows.sort(key=lambda row: (row.created_ms, row.key_id))
    return [
        Token(
            row.key_id, row.agent, Rank(row.rank), bytes.fromhex(row.digest), row.created_ms,
            None if row.expires_ms < 0 else row.expires_ms,
            None if row.revoked_ms < 0 else row.revoked_ms,
        )
        for row in rows
    ]  # fmt: skip


def row_of(token: Token) -> TokenRow:
    """Write a token; of its text there is only the hash."""
    return TokenRow(
        token.key_id, token.agent, token.rank.value, token.digest.hex(), token.created_ms,
        -1 if token.expires_ms is None else token.expires_ms,
        -1 if token.revoked_ms is None else token.revoked_ms,
    )  # fmt: skip
