"""Sessions in the SQLite store: one row each, bounded by agent and in all (R29).

A row is kept under a hash of agent and name, and holds counters and salted hashes, no text. What
this process kept last it knows by heart: while no other writes the file, a session is asked for
once in its life.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable
from typing import TYPE_CHECKING, NamedTuple

import apsw
import msgspec

from escalade_server.core.session import Session

if TYPE_CHECKING:
    from escalade_server.stores.sqlite_orders import Answer, Order

AGENT_MAX = 1_000
"""Sessions of one agent; of more, those seen last are kept."""
TOTAL_MAX = 50_000
KNOWN_MAX = 5_000
"""Sessions known by heart."""

_PUT = """
INSERT INTO sessions VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET seen_ms = excluded.seen_ms, until_ms = excluded.until_ms,
  session = excluded.session WHERE excluded.seen_ms >= seen_ms
"""
_FIND = "SELECT session FROM sessions WHERE key = ? AND until_ms > ?"
_DROP_OF_AGENT = """
DELETE FROM sessions WHERE key IN
  (SELECT key FROM sessions WHERE agent = ? ORDER BY seen_ms DESC LIMIT -1 OFFSET ?)
"""
_DROP_OLDEST = """
DELETE FROM sessions WHERE key IN
  (SELECT key FROM sessions ORDER BY seen_ms DESC LIMIT -1 OFFSET ?1)
  AND (SELECT count(*) FROM sessions) > ?1
"""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Session).decode


class Recall(NamedTuple):
    """The order to answer what is kept of a session."""

    key: str


class Keep(NamedTuple):
    """The order to keep a session as it is now; an older state never replaces a newer one."""

    key: str
    agent: str
    session: Session


def to_text(session: Session) -> str:
    """Write a session as it is kept."""
    return _encode(session).decode()


def from_text(text: str) -> Session | None:
    """Read a session; one that another version wrote is as good as none."""
    try:
        return _decode(text)
    except msgspec.MsgspecError:
        return None


class SessionTable:
    """The rows, inside the transactions of the books."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Take the books' connection."""
        self._db = connection

    def find(self, key: str, now_ms: int) -> Session | None:
        """Answer a session that is not over."""
        text = self._db.execute(_FIND, (key, now_ms)).get
        return from_text(text) if isinstance(text, str) else None

    def keep(self, order: Keep) -> None:
        """Write a session, and drop those of its agent that are too many."""
        session = order.session
        self._db.execute(
            _PUT, (order.key, order.agent, session.seen_ms, session.until_ms, to_text(session))
        )
        self._db.execute(_DROP_OF_AGENT, (order.agent, AGENT_MAX))

    def purge(self, now_ms: int) -> None:
        """Drop what is over, and what is too much."""
        self._db.execute("DELETE FROM sessions WHERE until_ms <= ?", (now_ms,))
        self._db.execute(_DROP_OLDEST, (TOTAL_MAX,))


class SessionKeeper(ABC):
    """``SessionStore`` over the queue of the books."""

    def __init__(self, *, alone: bool) -> None:
        """``alone`` says that no other process writes the same sessions."""
        self._alone = alone
        self._known: OrderedDict[str, Session] = OrderedDict()

    @abstractmethod
    def _submit(self, order: "Order", now_ms: int) -> "asyncio.Future[Answer]":
        """Queue an order."""

    def session(self, key: str, now_ms: int) -> Awaitable[Session | None]:
        """Answer what is kept, at once if it is known by heart; see ``SessionStore``."""
        known = self._known.get(key)
        if known is None:
            return self._submit(Recall(key), now_ms)  # type: ignore[return-value]
        future: asyncio.Future[Session | None] = asyncio.get_running_loop().create_future()
        future.set_result(known if known.until_ms > now_ms else None)
        return future

    def keep_session(self, key: str, agent: str, session: Session, now_ms: int) -> Awaitable[None]:
        """Queue a session to be kept; see ``SessionStore``."""
        if self._alone:
            self._known[key] = session
            self._known.move_to_end(key)
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return self._submit(Keep(key, agent, session), now_ms)  # type: ignore[return-value]
