"""What is known of the session that a task is a step of, before the core looks at it (R29).

Kept by the store, under a salted hash of agent and name: two agents never meet in one session, and
no name is kept. A task without a session comes by here with one comparison.
"""

import asyncio
import hashlib
from collections.abc import Awaitable
from dataclasses import replace
from typing import Protocol

from escalade_server.core import signs
from escalade_server.core.likeness import NO_QUESTION
from escalade_server.core.rules import Rules
from escalade_server.core.session import NEW, Session, Sign, Step
from escalade_server.core.tally import Tally
from escalade_server.core.task import Request
from escalade_server.engine.ports import Clock, StoreError

RECALL_S = 2.0
"""A store that takes longer leaves the task without its session: that is no reason to fail."""


class SessionStore(Protocol):
    """Keeps sessions for as long as they last, and so many as there is room for: the latest."""

    def session(self, key: str, now_ms: int) -> Awaitable[Session | None]:
        """Answer what is kept, at once where it is known here; None: nothing, or no more.

        Raises:
            StoreError: it cannot be read.
        """
        ...

    def keep_session(self, key: str, agent: str, session: Session, now_ms: int) -> Awaitable[None]:
        """Keep a session as it is now, durably; what is newer stays.

        Raises:
            StoreError: it cannot be kept.
        """
        ...


class Steps:
    """Makes requests steps of sessions, under the salt of this installation."""

    def __init__(self, secret: str) -> None:
        """Derive the salt from the ``secret`` that signs resume tokens."""
        self._salt = hashlib.blake2b(secret.encode(), person=b"session salt").digest()

    def key_of(self, agent: str, name: str) -> str:
        """Answer under what a session is kept."""
        told = hashlib.blake2b(agent.encode(), digest_size=16, key=self._salt)
        told.update(b"\0")  # stands in no name of an agent
        told.update(name.encode(errors="surrogatepass"))
        return told.hexdigest()

    def step(self, request: Request, key: str, before: Session | None, rules: Rules) -> Request:
        """Make a request the next step of a session that is kept, or of a new one."""
        before, question, told = before or NEW, NO_QUESTION, tuple[Sign, ...]()
        if rules.session_evidence:
            question, told = signs.told_by(request, before, self._salt)
        step = Step(
            key, before, question, told, rules.session_ttl_ms,
            rules.session_sticky, rules.session_evidence,
        )  # fmt: skip
        return replace(request, session=step)


class Sessions:
    """Recalls sessions for their next steps, and has them kept."""

    def __init__(self, store: SessionStore, clock: Clock, secret: str) -> None:
        """Say where they are kept; see ``Steps`` for the ``secret``."""
        self._store, self._clock, self._steps = store, clock, Steps(secret)

    def keep(self, tally: Tally, session: Session, now_ms: int) -> Awaitable[None]:
        """Keep what a task leaves of its session."""
        return self._store.keep_session(tally.session_key, tally.agent, session, now_ms)

    async def recalled(self, request: Request, rules: Rules) -> Request:
        """Answer the request with what is known of its session; unchanged without one."""
        name = request.task.session_id
        if not name or not (rules.session_sticky or rules.session_evidence):
            return request
        key = self._steps.key_of(request.agent, name)
        kept = asyncio.ensure_future(self._store.session(key, self._clock.now_ms()))
        if not kept.done():
            await asyncio.wait((kept,), timeout=RECALL_S)
        if not kept.done():
            kept.cancel()
            return request
        try:
            return self._steps.step(request, key, kept.result(), rules)
        except StoreError:
            return request
