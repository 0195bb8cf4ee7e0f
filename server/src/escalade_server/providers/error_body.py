"""What an error says of itself: from any body to codes, type, status and text.

A body may be an object, an array, a string, HTML or nothing (provider-signals, parsing rules 1 and
2): reading one never raises.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from escalade_server.providers import bounded_json, utf8

TEXT_CHARS_MAX: Final = 4_096
"""Of an error's message, as far as rules look at it: it bounds their regular expressions."""

_CODE_CHARS_MAX: Final = 64
_PAYMENT: Final = "x402_payment"
_FLAGGED: Final = "moderation_flagged"
# What the ids and values of Google's quota violations come to.
_NO_QUOTA: Final = "quota_zero"
_PER_DAY: Final = "quota_per_day"
_PER_MINUTE: Final = "quota_per_minute"
_QUOTA_WORDS: Final = (("perday", _PER_DAY), ("perminute", _PER_MINUTE))


@dataclass(frozen=True, slots=True, repr=False)
class Evidence:
    """One error as its provider put it. No repr: the text may quote the prompt.

    Attributes:
        status: of HTTP, or the one stated inside a 2xx answer; 0 if there is none.
        kind: the error's ``type``, or the name that stands for it (``status`` at Google).
        codes: every machine-readable word or number it carries, in lower case.
        text: for people; only rules may look at it.
        headers: of the answer, names in lower case, with those quoted in the body.
    """

    status: int
    kind: str = ""
    codes: frozenset[str] = frozenset()
    text: str = ""
    headers: Mapping[str, str] | None = None


def read(status: int, headers: Mapping[str, str], body: bytes) -> Evidence:
    """Look at the body of a non-2xx answer."""
    body, _ = utf8.mended(body.removeprefix(utf8.BOM))
    try:
        value = bounded_json.decode(body)
    except ValueError:
        value = body[:TEXT_CHARS_MAX].decode(errors="replace")
    return examine(status, headers, value)


def examine(status: int, headers: Mapping[str, str], value: object) -> Evidence:
    """Look at a decoded error, wherever its provider puts things."""
    if isinstance(value, list):
        value = value[0] if value else ""
    if not isinstance(value, dict):
        return Evidence(_http(status), text=_text(value), headers=headers)
    error = value.get("error", value)
    if not isinstance(error, dict):
        error = {**value, "message": error}
    metadata = _dict(error, "metadata")
    base = _dict(value, "base_resp")
    codes = frozenset(_codes(value, error, metadata, base))
    stated = next(_statuses(error), 0)
    kind = error.get("type") or error.get("status")
    return Evidence(
        status=_http(status) or stated,
        kind=kind.lower() if isinstance(kind, str) else "",
        codes=codes,
        text=_text(error.get("message") or error.get("detail") or base.get("status_msg") or ""),
        headers={**_quoted(metadata), **_retry_info(error), **headers},
    )


def is_error(value: object) -> bool:
    """Whether an object inside a 2xx answer, without an answer in it, is an error."""
    if isinstance(value, list):
        return bool(value)
    if not isinstance(value, dict):
        return False
    if value.get("error") or isinstance(value.get("detail"), str):
        return True
    if _dict(value, "base_resp").get("status_code"):
        return True
    return isinstance(value.get("message"), str) and (
        "code" in value or value.get("object") == "error" or value.get("type") == "error"
    )


def _http(status: int) -> int:
    """The status, unless it says that all is well."""
    return 0 if 200 <= status < 300 else status


def _dict(value: Mapping[str, object], key: str) -> Mapping[str, object]:
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def _number(value: object) -> int | None:
    """A small number, also one in a string; providers write the same code both ways."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 7:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _codes(*places: Mapping[str, object]) -> Iterator[str]:
    outer, error, metadata, base = places
    candidates = (
        error.get("code"),
        metadata.get("error_type"),
        metadata.get("limit_source"),
        _dict(metadata, "availability").get("code"),
        _dict(error, "availability").get("code"),
        _dict(error, "details").get("error_code"),
        *(detail.get("reason") for detail in _details(error)),
        base.get("status_code"),
    )
    for code in candidates:
        number = _number(code)
        if number is not None:
            # Three digits are an HTTP status, told by `_statuses`.
            if number > 599:
                yield str(number)
        elif isinstance(code, str) and 0 < len(code) <= _CODE_CHARS_MAX:
            yield code.lower()
    if isinstance(outer.get("payment"), dict):
        yield _PAYMENT
    if metadata.get("reasons") or metadata.get("flagged_input"):
        yield _FLAGGED
    yield from _quota_codes(error)


def _details(error: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Google's list of typed details; Anthropic's are one object."""
    details = error.get("details")
    if isinstance(details, list):
        yield from (detail for detail in details if isinstance(detail, dict))


def _quota_codes(error: Mapping[str, object]) -> Iterator[str]:
    """Which windows are used up, and whether there is any quota at all."""
    for detail in _details(error):
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            if isinstance(violation, dict):
                name = str(violation.get("quotaId")).lower()
                yield from (code for word, code in _QUOTA_WORDS if word in name)
                if _number(violation.get("quotaValue")) == 0:
                    yield _NO_QUOTA


def _retry_info(error: Mapping[str, object]) -> dict[str, str]:
    """Google's wait, which stands in the body only, as the header that others send."""
    for detail in _details(error):
        delay = detail.get("retryDelay")
        if isinstance(delay, str):
            return {"retry-after": delay}
    return {}


def _statuses(error: Mapping[str, object]) -> Iterator[int]:
    for key in ("status", "code", "http_code"):
        number = _number(error.get(key))
        if number is not None and 300 <= number <= 599:
            yield number


def _quoted(metadata: Mapping[str, object]) -> dict[str, str]:
    """Headers that a reseller quotes in the body."""
    return {
        name.lower(): str(value)
        for name, value in _dict(metadata, "headers").items()
        if isinstance(value, str | int | float)
    }


def _text(value: object) -> str:
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) else ""
