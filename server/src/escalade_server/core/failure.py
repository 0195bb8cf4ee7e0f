"""Why attempts fail, and the one table that says what to do next (provider-signals B1)."""

from dataclasses import dataclass
from enum import Enum

from escalade_server.core.task import FinishReason


class FailureClass(Enum):
    """Closed: by what to do next, not by where the failure came from."""

    RATE_SHORT = "rate_short"
    QUOTA_WINDOW = "quota_window"
    SPEND_CAP = "spend_cap"
    BALANCE = "balance"
    OVERLOADED = "overloaded"
    OUTAGE = "outage"
    TIMEOUT = "timeout"
    CONTEXT = "context"
    CONTENT = "content"
    REFUSAL = "refusal"
    AUTH = "auth"
    FORBIDDEN = "forbidden"
    MODEL_GONE = "model_gone"
    BAD_REQUEST = "bad_request"
    TOO_LARGE = "too_large"
    PROTOCOL = "protocol"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"
    """Our own doing: the caller left or the deadline came. Never a provider's signal."""


class Scope(Enum):
    """What a cooldown sets aside."""

    NONE = "none"
    MODEL = "model"
    """One model on one account."""
    ACCOUNT = "account"
    """All models of one account (the key, its quota or its balance)."""
    PROVIDER = "provider"


class Charge(Enum):
    """What a failed attempt before its first output costs (quotas C5)."""

    NOTHING = "nothing"
    UNCERTAIN = "uncertain"
    """The provider may have billed: the full reserve stays held, then is booked (R13)."""
    USAGE = "usage"
    """What the provider reported, else the bound."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    ``cooldown_ms`` applies when the provider named no instant; None means no cooldown.
    ``retry_same`` is used under ``retry_then_skip`` only (R8). ``counts_for_breaker`` feeds the
    provider's circuit. ``terminal`` ends the task: another model would not do better.
    """

    scope: Scope
    cooldown_ms: int | None
    charge: Charge
    retry_same: bool = False
    counts_for_breaker: bool = False
    terminal: bool = False


SECOND_MS = 1_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
NEVER_MS = 1 << 62
"""An instant that does not come by itself: a human must act."""

_C = FailureClass
TABLE: dict[FailureClass, Row] = {
    _C.RATE_SHORT: Row(Scope.MODEL, 2 * SECOND_MS, Charge.NOTHING),  # a short wait is sat out (R8)
    _C.QUOTA_WINDOW: Row(Scope.MODEL, HOUR_MS, Charge.NOTHING),
    _C.SPEND_CAP: Row(Scope.ACCOUNT, DAY_MS, Charge.NOTHING),
    _C.BALANCE: Row(Scope.ACCOUNT, 15 * MINUTE_MS, Charge.NOTHING),
    _C.OVERLOADED: Row(Scope.MODEL, SECOND_MS, Charge.NOTHING, retry_same=True),
    _C.OUTAGE: Row(Scope.NONE, None, Charge.UNCERTAIN, retry_same=True, counts_for_breaker=True),
    _C.TIMEOUT: Row(Scope.NONE, None, Charge.UNCERTAIN, counts_for_breaker=True),
    _C.CONTEXT: Row(Scope.NONE, None, Charge.NOTHING),
    _C.CONTENT: Row(Scope.NONE, None, Charge.USAGE, terminal=True),
    _C.REFUSAL: Row(Scope.NONE, None, Charge.USAGE, terminal=True),
    _C.AUTH: Row(Scope.ACCOUNT, NEVER_MS, Charge.NOTHING),
    _C.FORBIDDEN: Row(Scope.ACCOUNT, NEVER_MS, Charge.NOTHING),
    _C.MODEL_GONE: Row(Scope.MODEL, HOUR_MS, Charge.NOTHING),
    _C.BAD_REQUEST: Row(Scope.NONE, None, Charge.NOTHING, terminal=True),
    _C.TOO_LARGE: Row(Scope.NONE, None, Charge.NOTHING, terminal=True),
    _C.PROTOCOL: Row(Scope.NONE, None, Charge.UNCERTAIN, retry_same=True, counts_for_breaker=True),
    _C.UNKNOWN: Row(Scope.NONE, None, Charge.UNCERTAIN, counts_for_breaker=True),
    _C.CANCELLED: Row(Scope.NONE, None, Charge.UNCERTAIN),
}

ANSWERS = {_C.CONTENT: FinishReason.CONTENT_FILTER, _C.REFUSAL: FinishReason.REFUSAL}
"""Failures that are answers: never laundered through another vendor (DESIGN 6, guarantee 6)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One classified failure of one attempt.

    ``detail`` is for people and holds no prompt, answer or key. ``reset_at_ms`` is the instant
    the provider named, already clamped; ``sent`` is False only when it is known that no byte of
    the request can have been processed (then nothing is charged).
    """

    cls: FailureClass
    detail: str
    http_status: int = 0
    code: str = ""
    reset_at_ms: int | None = None
    scope: Scope | None = None
    """Overrides the table's scope where the signal says so (P6: account-wide)."""
    sent: bool = True
    odd_reset: bool = False
    """The instant that the provider named was out of bounds (T10)."""


def cooldown(failure: Failure, on_limit_ms: int | None, now_ms: int) -> tuple[Scope, int] | None:
    """Say what a failure sets aside and until when; None for nothing.

    The provider's own instant wins; ``on_limit_ms`` (``cooldown_on_limit``) stands in for it when
    a used-up quota names none that is still to come (R9).
    """
    row = TABLE[failure.cls]
    scope = failure.scope or row.scope
    if row.cooldown_ms is None or scope is Scope.NONE:
        return None
    reset_ms, of_quota = failure.reset_at_ms, failure.cls is FailureClass.QUOTA_WINDOW
    if reset_ms is not None and (reset_ms > now_ms or not of_quota):
        return scope, max(reset_ms, now_ms)
    if of_quota and on_limit_ms is not None:
        return scope, now_ms + on_limit_ms
    return scope, min(now_ms + row.cooldown_ms, NEVER_MS)
