"""A webhook: one notice, one signed POST, tried again for a while, and never waited for (D16)."""

import asyncio
import hashlib
import hmac
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from escalade_server.engine.ports import Clock, Entropy, Notice, Poster, PostFailedError

QUEUE_MAX = 256
ATTEMPTS_MAX = 8
TIMEOUT_MS = 10_000
BACKOFF_MS = 1_000
BACKOFF_MS_MAX = 60_000
_AGAIN = frozenset({408, 425, 429})
_OK = range(200, 300)
_FAULTS = range(500, 600)


class Shape(Enum):
    """How the body is written."""

    PLAIN = "plain"
    SLACK = "slack"


@dataclass(frozen=True, slots=True)
class Target:
    """Where notices go. ``name`` is for people: the address is a secret, as is the key."""

    name: str
    url: str = field(repr=False)
    shape: Shape = Shape.PLAIN
    key: str = field(default="", repr=False)
    """Signs what is sent; empty: nothing is signed."""


def body_of(notice: Notice, shape: Shape) -> bytes:
    """Write a notice."""
    if shape is Shape.SLACK:
        text = notice.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return json.dumps({"text": f"*Escalade* {text}"}).encode()
    told = {
        "id": notice.id,
        "kind": notice.kind,
        "text": notice.text,
        "at_ms": notice.at_ms,
        "since_ms": notice.since_ms,
        "count": notice.count,
        "facts": dict(notice.facts),
    }
    return json.dumps(told).encode()


def signature(key: str, now_ms: int, body: bytes) -> str:
    """Sign a body with the second at which it is sent: ``t=<s>,v1=<HMAC-SHA256 of "s.body">``."""
    at_s = now_ms // 1_000
    made = hmac.new(key.encode(), b"%d.%s" % (at_s, body), hashlib.sha256)
    return f"t={at_s},v1={made.hexdigest()}"


class Webhook:
    """``Notifier``: queues notices for one target and sends them in order, one at a time."""

    def __init__(
        self,
        target: Target,
        poster: Poster,
        clock: Clock,
        entropy: Entropy,
        failed: Callable[[str, str], None],
    ) -> None:
        """``failed`` hears the name of the target and why a notice was given up."""
        self._target, self._poster = target, poster
        self._clock, self._entropy, self._failed = clock, entropy, failed
        self._queue: deque[tuple[Notice, Callable[[], None]]] = deque()
        self._news = asyncio.Event()

    def notify(self, notice: Notice, done: Callable[[], None]) -> None:
        """Queue a notice; one more than ``QUEUE_MAX`` is given up."""
        if len(self._queue) >= QUEUE_MAX:
            self._failed(self._target.name, f"{QUEUE_MAX} notices wait already")
            done()
            return
        self._queue.append((notice, done))
        self._news.set()

    def give_up(self) -> None:
        """Nobody wants what is queued any more: its target is gone from the strategy."""
        while self._queue:
            _, done = self._queue.popleft()
            done()

    async def run(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._queue:
                notice, done = self._queue[0]
                why = await self._send(notice)
                if why:
                    self._failed(self._target.name, why)
                self._queue.popleft()
                done()

    async def _send(self, notice: Notice) -> str:
        """Send one; answer why it was given up, or nothing."""
        body, why = body_of(notice, self._target.shape), ""
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await asyncio.sleep(self._pause_ms(attempt) / 1_000)
            try:
                status = await self._poster.post(
                    self._target.url, self._headers(notice, body), body, TIMEOUT_MS
                )
            except PostFailedError as error:
                why = f"{error}"
                continue
            if status in _OK:
                return ""
            why = f"the answer was {status}"
            if status not in _AGAIN and status not in _FAULTS:
                return why  # a redirect too: it would lead where nobody configured (D5)
        return f"{why}, {ATTEMPTS_MAX} times"

    def _pause_ms(self, attempt: int) -> int:
        """Twice as long each time; the half of it is chance, so that replicas part."""
        half = min(BACKOFF_MS << (attempt - 1), BACKOFF_MS_MAX) // 2
        return half + self._entropy.jitter_ms(half)

    def _headers(self, notice: Notice, body: bytes) -> tuple[tuple[str, str], ...]:
        headers = [("Content-Type", "application/json"), ("Escalade-Notice", notice.id)]
        if self._target.key:
            signed = signature(self._target.key, self._clock.now_ms(), body)
            headers.append(("Escalade-Signature", signed))
        return tuple(headers)
