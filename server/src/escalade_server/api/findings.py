"""What is wrong with a request, collected so that a caller sees all of it at once."""

import math
import re

from google.protobuf import duration_pb2

from escalade.v1 import error_pb2
from escalade_server.api.status import Refusal, RefusedError, not_built

FINDINGS_MAX = 64
JSON_DEPTH_MAX = 32
DURATION_MS_MAX = 7 * 86_400_000

NAME = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_@ .:/+-]{0,127}")
"""Names of layers, models, types and capabilities: nothing that could end a header (C14)."""
ID = re.compile(r"[A-Za-z0-9_.:~+/=@-]{1,128}")
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What every vendor accepts, so that a task can escalate from one to another."""
VISIBLE = re.compile(r"[\x21-\x7e]{1,256}")

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class Findings:
    """Violations, unknown names and fields not built yet, each with its path."""

    def __init__(self, closed: frozenset[str] = frozenset()) -> None:
        """Start without any; ``closed`` are the models that are not the caller's, by key.

        What is closed to a caller and what does not exist are refused in the same words (C9).
        """
        self.closed = closed
        self._wrong: list[tuple[str, str]] = []
        self._unknown: list[tuple[str, str]] = []
        self._unbuilt: list[str] = []

    def wrong(self, path: str, what: str) -> None:
        """Note that a field breaks a rule."""
        if len(self._wrong) < FINDINGS_MAX:
            self._wrong.append((path, what))

    def unknown(self, path: str, what: str) -> None:
        """Note a name that the strategy does not have for this caller (C9)."""
        if len(self._unknown) < FINDINGS_MAX:
            self._unknown.append((path, what))

    def unbuilt(self, name: str) -> None:
        """Note a field or value whose behaviour is not built (P15)."""
        if len(self._unbuilt) < FINDINGS_MAX:
            self._unbuilt.append(name)

    def raise_any(self) -> None:
        """Refuse the request if anything was found.

        Raises:
            RefusedError: malformed first, then unknown names, then what is not built.
        """
        if self._wrong:
            found = tuple(self._wrong + self._unknown)
            raise RefusedError(
                Refusal(error_pb2.ERROR_REASON_REQUEST_INVALID, _sentence(found), violations=found)
            )
        if self._unknown:
            found, reason = tuple(self._unknown), error_pb2.ERROR_REASON_MODEL_UNKNOWN
            if self.closed:
                reason = error_pb2.ERROR_REASON_LAYER_FORBIDDEN
            raise RefusedError(Refusal(reason, _sentence(found), violations=found))
        if self._unbuilt:
            raise RefusedError(not_built(*self._unbuilt))

    # --------------------------------------------------------------------------- single values

    def matches(self, path: str, value: str, pattern: re.Pattern[str]) -> str:
        """Check a name or id against its allow-list (C14)."""
        if not pattern.fullmatch(value):
            self.wrong(path, f"must match {pattern.pattern}")
        return value

    def whole(self, path: str, value: int, low: int, high: int) -> int:
        """Check an integer."""
        if not low <= value <= high:
            self.wrong(path, f"is {value}; from {low} to {high} is allowed")
        return value

    def real(self, path: str, value: float, low: float, high: float) -> float:
        """Check a number; NaN is never allowed."""
        if math.isnan(value) or not low <= value <= high:
            self.wrong(path, f"is {value}; from {low:g} to {high:g} is allowed")
        return value

    def span_ms(self, path: str, value: duration_pb2.Duration, low_ms: int, high_ms: int) -> int:
        """Check a duration, and turn it into ms."""
        value_ms = value.seconds * 1_000 + value.nanos // 1_000_000
        if not low_ms <= value_ms <= high_ms:
            self.wrong(path, f"is {value_ms} ms; from {low_ms} to {high_ms} ms is allowed")
        return value_ms

    def listed(self, path: str, count: int, limit: int) -> None:
        """Check the length of a list."""
        if count > limit:
            self.wrong(path, f"has {count} entries; at most {limit} are allowed")


def json_depth(text: str) -> int:
    """Nesting of a JSON text, looked at no further than one level too deep (C13)."""
    if text.count("{") + text.count("[") <= JSON_DEPTH_MAX:
        return 0
    depth = deepest = 0
    for token in _JSON_TOKEN.finditer(text):
        mark = token.group()
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if depth > JSON_DEPTH_MAX:
                break
        elif mark in "]}":
            depth -= 1
    return deepest


def _sentence(found: tuple[tuple[str, str], ...]) -> str:
    path, what = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{path} {what}{more}"
