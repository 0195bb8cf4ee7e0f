"""Sessions in Redis: one hash each, that ends by itself; sorted sets bound how many (R29).

Another replica may have served the last step, so each step asks: in the batch that is under way
anyway, and for tasks of a session only.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from escalade_server.core.session import Session
from escalade_server.stores.redis_wire import Field, name_of
from escalade_server.stores.sessions import AGENT_MAX, TOTAL_MAX, Keep, Recall, from_text, to_text

if TYPE_CHECKING:
    from escalade_server.stores.redis_orders import Answer, Order


def session_fields(order: Recall | Keep) -> tuple[str, tuple[Field, ...]]:
    """Name the script of an order, and write it."""
    if isinstance(order, Recall):
        return "session", (order.key,)
    session = order.session
    ttl_ms = max(session.until_ms - session.seen_ms, 1)
    return "keep", (
        order.key, name_of(order.agent), session.seen_ms, ttl_ms, to_text(session), AGENT_MAX,
        TOTAL_MAX,
    )  # fmt: skip


class RedisSessions(ABC):
    """``SessionStore`` over the queue of the books."""

    @abstractmethod
    def _submit(self, order: "Order") -> "asyncio.Future[Answer]":
        """Queue an order."""

    async def session(self, key: str, now_ms: int) -> Session | None:
        """Ask for a session; see ``SessionStore``."""
        notes: list[str] = await self._submit(Recall(key))  # type: ignore[assignment]
        kept = from_text(notes[0]) if notes else None
        return kept if kept is not None and kept.until_ms > now_ms else None

    def keep_session(
        self,
        key: str,
        agent: str,
        session: Session,
        now_ms: int,  # noqa: ARG002 - the store's clock decides (T6)
    ) -> Awaitable[None]:
        """Queue a session to be kept; see ``SessionStore``."""
        return self._submit(Keep(key, agent, session))  # type: ignore[return-value]
