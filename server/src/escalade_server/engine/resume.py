"""Resume tokens: what lets a task that waits take up its place again after a break (R22, P8).

Rules of the file:
1. Nothing is kept for a token: it says itself since when its task waits, and is signed. So it
   holds over a restart and on another replica, and no prompt is stored.
2. It is its agent's and its request's alone. With another agent, id or content it is refused, as
   a forged one is.
3. A place is kept for ``KEPT_MS`` after the last time it was told. A token that comes later is no
   mistake: its task waits on, at the end of the line, and nobody is notified twice.
"""

import base64
import hashlib
import hmac
import json
from binascii import Error
from dataclasses import dataclass

from escalade_server.core.task import Request
from escalade_server.core.waits import TELL_MS
from escalade_server.engine.ports import Clock

KEPT_MS = TELL_MS + 120_000
"""The stream may have broken just before the place would have been told again."""
CHARS_MAX = 2_048
_MAC_BYTES = 32
_VERSION = 1


class ResumeTokenError(Exception):
    """The token is forged, or not of this request; the message says so."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a token says; ``since_ms`` is 0 when the place is not kept any more."""

    since_ms: int
    told: tuple[str, ...]
    """Causes that the user was notified of."""


class ResumeDesk:
    """Writes and reads tokens under one secret."""

    def __init__(self, secret: str, clock: Clock) -> None:
        """Keep both; a secret of no characters would let anyone in."""
        assert secret, "tokens are signed"
        self._key, self._clock = secret.encode(), clock

    def issue(self, request: Request, since_ms: int, told: frozenset[str]) -> str:
        """Write a token for a task that waits."""
        said = {
            "v": _VERSION, "a": request.agent, "r": request.id, "c": request.content,
            "s": since_ms, "t": sorted(told), "i": self._clock.now_ms(),
        }  # fmt: skip
        body = json.dumps(said, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._mac(body) + body).decode()

    def read(self, token: str, request: Request) -> Kept:
        """Read a token that came with a request.

        A token of a call without its caller's own id is bound to the id that the service gave it.

        Raises:
            ResumeTokenError: it is not of this agent, id and content, or not ours at all.
        """
        try:
            raw = base64.b64decode(token[:CHARS_MAX].encode(), altchars=b"-_", validate=True)
        except (Error, UnicodeEncodeError):
            raise ResumeTokenError("it is no token of this service") from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body)):
            raise ResumeTokenError("it is no token of this service")
        said = json.loads(body)
        if said["v"] != _VERSION:
            raise ResumeTokenError("it is of another version of this service")
        mine = (request.agent, request.id)
        if (said["a"], said["r"]) != mine or said["c"] not in ("", request.content):
            raise ResumeTokenError("it was given for another request")
        now_ms = self._clock.now_ms()
        is_kept = now_ms <= said["i"] + KEPT_MS
        return Kept(min(said["s"], now_ms) if is_kept else 0, tuple(said["t"]))

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._key, body, hashlib.sha256).digest()
