"""From an error to what to do next: rules as data, read in one order (provider-signals B1).

A provider's error becomes `Evidence`; the first rule that fits it says the class. Codes come
before types, types before statuses; text decides only where a provider has nothing better, by
narrowing a type or status that it uses for several things, or last of all. The tables are in
`signal_tables`; a further provider is more rows there.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from escalade_server.core.failure import Failure, FailureClass, Scope
from escalade_server.providers import resets
from escalade_server.providers.error_body import Evidence
from escalade_server.providers.resets import ResetHeader, Window

_HASH_DIGITS: Final = 12
_C = FailureClass
_WAITS: Final = frozenset({_C.RATE_SHORT, _C.QUOTA_WINDOW, _C.SPEND_CAP, _C.OVERLOADED})
_WORDS: Final[Mapping[FailureClass, str]] = {
    _C.RATE_SHORT: "too many requests or tokens just now",
    _C.QUOTA_WINDOW: "the quota of a longer window is used up",
    _C.SPEND_CAP: "a spend limit is reached",
    _C.BALANCE: "the balance is used up",
    _C.OVERLOADED: "overloaded",
    _C.OUTAGE: "server error",
    _C.TIMEOUT: "timed out at the provider",
    _C.CONTEXT: "the request is too long for the model",
    _C.CONTENT: "refused by the content filter",
    _C.REFUSAL: "refused by the model",
    _C.AUTH: "the credential is not accepted",
    _C.FORBIDDEN: "not allowed for this account or from here",
    _C.MODEL_GONE: "the model is not available to this account",
    _C.BAD_REQUEST: "the request is not accepted",
    _C.TOO_LARGE: "the request is too large",
    _C.PROTOCOL: "not an answer as agreed",
    _C.UNKNOWN: "unclassified error",
    _C.CANCELLED: "cancelled",
}
_REDIRECTED: Final = "a redirect, which is never followed: see `base_url`"


class Rank(IntEnum):
    """What a rule goes by; lower ranks are asked first (parsing rule 5)."""

    CODE = 0
    NARROWED = 1
    """Text that narrows a type or status."""
    TYPE = 2
    STATUS = 3
    TEXT = 4


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: all that is stated must hold; of each set, any one member.

    Attributes:
        cls: what an error is that fits.
        codes: machine-readable words or numbers, in lower case.
        types: of the error, in lower case.
        statuses: of HTTP; 0 is an error inside a 2xx answer that states none.
        text: searched in the error's text, in any case.
        scope: what is set aside, where the table of classes would say otherwise.
        window: the calendar window that the error names.
    """

    cls: FailureClass
    codes: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    text: re.Pattern[str] | None = None
    scope: Scope | None = None
    window: Window = Window.NONE

    @property
    def rank(self) -> Rank:
        """Where the rule stands in the order."""
        if self.codes:
            return Rank.CODE
        if self.text is not None:
            return Rank.NARROWED if self.types or self.statuses else Rank.TEXT
        return Rank.TYPE if self.types else Rank.STATUS

    def fits(self, evidence: Evidence) -> bool:
        """Whether an error is what this row is about."""
        return (
            (not self.codes or not self.codes.isdisjoint(evidence.codes))
            and (not self.types or evidence.kind in self.types)
            and (not self.statuses or evidence.status in self.statuses)
            and (self.text is None or self.text.search(evidence.text) is not None)
        )


@dataclass(frozen=True, slots=True)
class Vendor:
    """How one provider tells trouble.

    Attributes:
        name: of the provider in a strategy.
        dialect: that it speaks when it goes by these rows.
        own: its own rows; within a rank they come before the shared ones.
        shared: rows of its dialect.
        reset_headers: where it writes when a limit resets.
        code_in_text: finds a code that it puts into the message only.
        rules: all rows, in the order in which they are asked.
    """

    name: str
    dialect: str
    own: tuple[Rule, ...] = ()
    shared: tuple[Rule, ...] = ()
    reset_headers: tuple[ResetHeader, ...] = ()
    code_in_text: re.Pattern[str] | None = None
    rules: tuple[Rule, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Put the rows in order, once."""
        ordered = sorted((*self.own, *self.shared), key=lambda rule: rule.rank)
        object.__setattr__(self, "rules", tuple(ordered))


def judge(vendor: Vendor, evidence: Evidence, now_ms: int) -> Failure:
    """Say what an error means. Total: what no row knows is UNKNOWN, never guessed."""
    if vendor.code_in_text and (found := vendor.code_in_text.search(evidence.text)):
        evidence = Evidence(
            evidence.status,
            evidence.kind,
            evidence.codes | {found[1]},
            evidence.text,
            evidence.headers,
        )
    rule = next((rule for rule in vendor.rules if rule.fits(evidence)), None)
    if rule is None:
        return _failure(Rule(_C.UNKNOWN), evidence, None)
    reset = _reset_ms(vendor, rule, evidence, now_ms) if rule.cls in _WAITS else None
    return _failure(rule, evidence, reset, is_long=is_long_wait(reset, now_ms))


def is_long_wait(reset_ms: int | None, now_ms: int) -> bool:
    """A wait of more than an hour is a used-up window, whatever it calls itself (P2)."""
    return reset_ms is not None and reset_ms - now_ms > resets.HOUR_MS


def _reset_ms(vendor: Vendor, rule: Rule, evidence: Evidence, now_ms: int) -> int | None:
    """The instant stated, else the one hinted at; a named window is not left early (P3)."""
    headers = evidence.headers or {}
    stated = resets.stated_ms(evidence.text, now_ms)
    if stated is not None:
        return stated
    hint = resets.retry_after_ms(headers, now_ms)
    if hint is None:
        hint = resets.header_ms(headers, vendor.reset_headers, now_ms)
    if hint is None:
        hint = resets.again_in_ms(evidence.text, now_ms)
    end = resets.window_end_ms(rule.window, now_ms)
    if end is None or hint is None:
        return end if hint is None else hint
    return min(max(hint, end), end + resets.HOUR_MS)


def _failure(
    rule: Rule, evidence: Evidence, reset_ms: int | None, *, is_long: bool = False
) -> Failure:
    """Put it in our own words: of the error itself only words of our tables are repeated.

    Who said it is not among them: wherever it is shown, the model stands beside it.
    """
    cls = _C.QUOTA_WINDOW if is_long and rule.cls is _C.RATE_SHORT else rule.cls
    code = min(evidence.codes & rule.codes, default="")
    where = [f"HTTP {evidence.status}" if evidence.status else "inside an answer"]
    if code:
        where.append(code)
    if cls is _C.UNKNOWN:
        where.append(f"text {_digest(evidence)}")
    words = _REDIRECTED if evidence.status // 100 == 3 else _WORDS[cls]
    return Failure(
        cls,
        f"{words} ({', '.join(where)})",
        http_status=evidence.status,
        code=code,
        reset_at_ms=None if reset_ms is None else int(reset_ms),
        scope=rule.scope,
        odd_reset=isinstance(reset_ms, resets.Clamped),
    )


def _digest(evidence: Evidence) -> str:
    """A hash by which the same unknown error is known again, without its words."""
    told = "\n".join((evidence.kind, *sorted(evidence.codes), evidence.text))
    return hashlib.sha256(told.encode(errors="replace")).hexdigest()[:_HASH_DIGITS]
