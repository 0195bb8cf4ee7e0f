"""What went wrong at a provider, as a caller of Route saw it, made into evidence (R33).

Exceptions of the official SDKs (openai, anthropic, google-genai) and of HTTP clients are known by
the names of their classes and by their attributes: none of them is imported, and none is needed.
What is not known is never guessed: it is the caller's own, and goes on to the caller.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from escalade._errors import EscaladeError
from escalade._usage import Finish

Transport = Literal["connect", "reset", "timeout", "dns", "tls", "protocol"]
_Kind = Literal["connect", "reset", "timeout", "dns", "tls", "protocol", "pool"]
FailureClass = Literal[
    "RATE_SHORT",
    "QUOTA_WINDOW",
    "SPEND_CAP",
    "BALANCE",
    "OVERLOADED",
    "OUTAGE",
    "TIMEOUT",
    "CONTEXT",
    "CONTENT",
    "REFUSAL",
    "AUTH",
    "FORBIDDEN",
    "MODEL_GONE",
    "BAD_REQUEST",
    "TOO_LARGE",
    "PROTOCOL",
    "UNKNOWN",
    "CANCELLED",
]

BODY_BYTES_MAX = 8_192
HEADERS_MAX = 64
HEADER_CHARS_MAX = 1_024
CHAIN_MAX = 16

SDKS = frozenset({"openai", "anthropic"})
GOOGLE = ("google.genai", "google.api_core")
HTTP = frozenset(
    {"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "requests", "urllib3", "urllib", "http"}
)
OF_PYTHON = frozenset({"builtins", "socket", "ssl", "asyncio"})  # transport errors only
MAYBE = frozenset({"APIConnectionError", "APITimeoutError", "ConnectionError", "URLError"})
"""Say little of themselves: their cause may say more."""

# By the name of a class, the most derived first. None: a mistake in the call, not a failure of it.
TRANSPORTS: Mapping[str, _Kind | None] = MappingProxyType(
    {
        "LocalProtocolError": None,
        "UnsupportedProtocol": None,
        "PoolTimeout": "pool",
        "gaierror": "dns",
        "NameResolutionError": "dns",
        "ClientConnectorDNSError": "dns",
        "SSLError": "tls",
        "ClientSSLError": "tls",
        "ClientConnectorSSLError": "tls",
        "ClientConnectorCertificateError": "tls",
        "ServerFingerprintMismatch": "tls",
        "ConnectError": "connect",
        "ConnectTimeout": "connect",
        "ConnectTimeoutError": "connect",
        "ConnectionTimeoutError": "connect",
        "ConnectionRefusedError": "connect",
        "ClientConnectorError": "connect",
        "NewConnectionError": "connect",
        "ProxyError": "connect",
        "Timeout": "timeout",
        "TimeoutError": "timeout",
        "TimeoutException": "timeout",
        "ServerTimeoutError": "timeout",
        "APITimeoutError": "timeout",
        "APIConnectionError": "reset",
        "ConnectionError": "reset",
        "URLError": "reset",
        "NetworkError": "reset",
        "RemoteProtocolError": "reset",
        "ProtocolError": "reset",
        "ChunkedEncodingError": "reset",
        "IncompleteRead": "reset",
        "ClientConnectionError": "reset",
        "ClientPayloadError": "reset",
        "DecodingError": "protocol",
        "DecodeError": "protocol",
        "ContentDecodingError": "protocol",
        "JSONDecodeError": "protocol",
        "ContentTypeError": "protocol",
        "BadStatusLine": "protocol",
        "APIResponseValidationError": "protocol",
        "UnknownApiResponseError": "protocol",
    }
)


@dataclass(frozen=True, slots=True)
class FailureEvidence:
    """A failed call as it was seen; the service says what it means, and keeps none of it.

    Attributes:
        http_status: The status of the response; None without one.
        headers: Its headers. Only those about limits and waits travel.
        body: Its body, of which the first 8 KiB travel.
        transport: How the transport failed: "connect", "dns" and "tls" if nothing was sent,
            "reset", "timeout" and "protocol" if it may have been.
    """

    http_status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    transport: Transport | None = None


def evidence_of(error: BaseException) -> FailureEvidence | None:
    """Read the exception of a provider's SDK or of an HTTP client; None if it is none."""
    if not _is_foreign(error):
        return None
    status = _status(error)
    kind = _transport(error)
    transport = None if kind == "pool" else kind
    if status is not None:
        ok = 200 <= status < 300
        return FailureEvidence(status, _headers(error), _body(error), transport if ok else None)
    if transport is not None:
        return FailureEvidence(transport=transport)
    if _is_of_an_sdk(error) and getattr(error, "body", None) is not None:
        return FailureEvidence(200, {}, _body(error))  # an error inside a streamed answer
    return None


def was_kept_back(error: BaseException) -> bool:
    """Tell whether a call never left for want of a free connection: no provider is to blame."""
    return _is_foreign(error) and _transport(error) == "pool"


def answer_in(error: BaseException) -> tuple[Finish, object] | None:
    """Find the answer that an SDK raises as an exception: its finish reason, and the answer."""
    finishes: Mapping[str, Finish] = {
        "LengthFinishReasonError": "length",
        "ContentFilterFinishReasonError": "content_filter",
    }
    finish = finishes.get(type(error).__name__) if _is_of_an_sdk(error) else None
    return None if finish is None else (finish, getattr(error, "completion", None))


def _root(base: type) -> str:
    return base.__module__.partition(".")[0]


def _is_of_an_sdk(error: BaseException) -> bool:
    return any(
        _root(base) in SDKS or base.__module__.startswith(GOOGLE) for base in type(error).__mro__
    )


def _is_foreign(error: BaseException) -> bool:
    if isinstance(error, EscaladeError):
        return False
    if _is_of_an_sdk(error) or any(_root(base) in HTTP for base in type(error).__mro__):
        return True
    return type(error).__module__ in OF_PYTHON and _transport(error) is not None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, and what it says that it came of."""
    one: object = error
    for _ in range(CHAIN_MAX):
        if not isinstance(one, BaseException):
            return
        yield one
        inner = getattr(one, "reason", None)
        one = inner if isinstance(inner, BaseException) else one.__cause__ or one.__context__


def _transport(error: BaseException) -> _Kind | None:
    """The first of the chain that says something of its own; else what the error itself says."""
    of_itself = _said(error)[1]
    if of_itself is None:
        return None
    first = of_itself
    for one in _chain(error):
        name, said = _said(one)
        if name and name not in MAYBE:
            first = said or first
            break
    if first != "connect":
        return first
    whys = (_said(one)[1] for one in _chain(error))
    return next((why for why in whys if why in {"dns", "tls"}), first)


def _said(error: BaseException) -> tuple[str, _Kind | None]:
    """The name by which an exception is known, and how the transport failed."""
    for base in type(error).__mro__:
        known = _root(base) in SDKS | HTTP | OF_PYTHON or base.__module__.startswith(GOOGLE)
        if known and base.__name__ in TRANSPORTS:
            return base.__name__, TRANSPORTS[base.__name__]
    return "", None


def _status(error: BaseException) -> int | None:
    """The status of the response: where the SDK puts it, else on the response itself."""
    response = getattr(error, "response", None)
    for holder, name in (
        (error, "status_code"),
        (error, "status"),
        (error, "code"),
        (response, "status_code"),
        (response, "status"),
    ):
        value = getattr(holder, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
            return int(value)
    return None


def _headers(error: BaseException) -> dict[str, str]:
    """Those about limits and waits: nothing of an account, a session or a key."""
    for holder in (getattr(error, "response", None), error):
        headers: Any = getattr(holder, "headers", None)
        if hasattr(headers, "items"):
            return allowed_headers(headers)
    return {}


def allowed_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those that may travel, names in lower case."""
    kept: dict[str, str] = {}
    for name, value in headers.items():
        low = str(name).lower()
        if ("ratelimit" in low or low.startswith("retry-after")) and len(kept) < HEADERS_MAX:
            kept[low[:HEADER_CHARS_MAX]] = str(value)[:HEADER_CHARS_MAX]
    return kept


def _body(error: BaseException) -> bytes:
    """The start of the body: the bytes if they are there, else what the SDK made of them."""
    try:
        content = getattr(getattr(error, "response", None), "content", None)
    except Exception:  # noqa: BLE001 - a body that was not read, as streamed ones are
        content = None
    if isinstance(content, bytes) and content:
        return content[:BODY_BYTES_MAX]
    if hasattr(error, "fp") and hasattr(error, "read"):
        try:
            return bytes(error.read(BODY_BYTES_MAX))  # urllib: the exception is the response
        except Exception:  # noqa: BLE001 - it was read before, or its connection is gone
            return b""
    for name in ("body", "details"):
        value = getattr(error, name, None)
        if isinstance(value, dict) and not value.keys() & {"error", "detail", "base_resp"}:
            value = {"error": value}  # openai unwraps it
        if isinstance(value, dict | list):
            value = json.dumps(value, default=str)
        if isinstance(value, str) and value:
            return value.encode()[:BODY_BYTES_MAX]
        if isinstance(value, bytes) and value:
            return value[:BODY_BYTES_MAX]
    return b""
