"""Exceptions as evidence. The official SDKs are not installed here: their classes are rebuilt by
module, name, bases and attributes; httpx, aiohttp and urllib are the real ones.
"""

import http.client
import io
import json
import socket
import ssl
import urllib.error
from email.message import Message
from types import SimpleNamespace
from typing import Literal

import aiohttp
import httpx
import pytest

import escalade
from escalade._failure import (
    BODY_BYTES_MAX,
    HEADER_CHARS_MAX,
    HEADERS_MAX,
    FailureEvidence,
    Transport,
    allowed_headers,
    answer_in,
    evidence_of,
    was_kept_back,
)

REQUEST = httpx.Request("POST", "http://provider")
Sdk = Literal["openai", "anthropic"]


def like(module: str, name: str, *bases: type[Exception]) -> type[Exception]:
    """Build a class as a package that is not installed has it."""
    return type(name, bases or (Exception,), {"__module__": module})


def raised(made: Exception, cause: BaseException | None = None, **attributes: object) -> Exception:
    """Set what the SDK sets on its exception, and its cause."""
    for name, value in attributes.items():
        setattr(made, name, value)
    made.__cause__ = cause
    return made


def of_sdk(module: Sdk, name: str, cause: BaseException | None = None, **has: object) -> Exception:
    """Raise as openai and anthropic do: their trees are alike."""
    root = like(f"{module}._exceptions", "OpenAIError" if module == "openai" else "AnthropicError")
    api = like(module, "APIError", root)
    connection = like(module, "APIConnectionError", api)
    bases = {
        "APIError": api,
        "APIConnectionError": connection,
        "APITimeoutError": like(module, "APITimeoutError", connection),
        "LengthFinishReasonError": like(module, "LengthFinishReasonError", root),
        "ContentFilterFinishReasonError": like(module, "ContentFilterFinishReasonError", root),
        "OpenAIError": root,
        "APIResponseValidationError": like(module, "APIResponseValidationError", api),
    }
    cls = bases.get(name) or like(module, name, like(module, "APIStatusError", api))
    return raised(cls("no"), cause, **has)


def response(status: int, content: bytes = b"", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, content=content, headers=named, request=REQUEST)


class Streamed(httpx.Response):
    """A response of which nobody read the body."""

    def __init__(self, status: int) -> None:
        super().__init__(status, stream=httpx.ByteStream(b""), request=REQUEST)


# --------------------------------------------------------------------------------------- statuses


@pytest.mark.parametrize("module", ["openai", "anthropic"])
def test_a_status_error_of_an_sdk(module: Sdk) -> None:
    body = b'{"error": {"type": "overloaded_error"}}'
    answer = response(529, body, Retry_After="3", X_RateLimit_Remaining="0", Set_Cookie="a=b")
    error = of_sdk(module, "OverloadedError", status_code=529, response=answer, body={"type": "x"})

    assert evidence_of(error) == FailureEvidence(
        529, {"retry-after": "3", "x-ratelimit-remaining": "0"}, body
    )


def test_a_body_that_openai_unwrapped_is_wrapped_again() -> None:
    inner = {"type": "requests", "code": "rate_limit_exceeded"}
    error = of_sdk("openai", "RateLimitError", status_code=429, response=Streamed(429), body=inner)
    found = evidence_of(error)

    assert found is not None
    assert json.loads(found.body) == {"error": inner}


@pytest.mark.parametrize("key", ["error", "detail", "base_resp"])
def test_a_body_that_is_whole_stays_as_it_is(key: str) -> None:
    body = {key: {"status_code": 1008}}
    error = of_sdk("openai", "RateLimitError", status_code=429, response=Streamed(429), body=body)
    found = evidence_of(error)

    assert found is not None
    assert json.loads(found.body) == body


@pytest.mark.parametrize(
    ("body", "sent"), [("text", b"text"), (b"bytes", b"bytes"), (None, b""), ("", b""), (7, b"")]
)
def test_bodies_of_every_kind(body: object, sent: bytes) -> None:
    error = of_sdk("openai", "InternalServerError", status_code=500, body=body)

    assert evidence_of(error) == FailureEvidence(500, {}, sent)


def test_an_error_inside_a_streamed_answer() -> None:
    openai = of_sdk("openai", "APIError", body={"type": "server_error"}, code="x")
    body = {"type": "error", "error": {"type": "overloaded_error"}}
    anthropic = of_sdk(
        "anthropic", "APIStatusError", status_code=200, response=Streamed(200), body=body
    )

    assert evidence_of(openai) == FailureEvidence(200, {}, b'{"error": {"type": "server_error"}}')
    assert evidence_of(anthropic) == FailureEvidence(200, {}, json.dumps(body).encode())


def test_an_error_of_google() -> None:
    details = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}
    cls = like("google.genai.errors", "ClientError", like("google.genai.errors", "APIError"))
    answer = SimpleNamespace(content=object(), headers={"Retry-After": "9"})  # aiohttp's
    error = raised(
        cls("429"), code=429, status="RESOURCE_EXHAUSTED", details=details, response=answer
    )

    assert evidence_of(error) == FailureEvidence(
        429, {"retry-after": "9"}, json.dumps(details).encode()
    )


def test_errors_of_http_clients() -> None:
    answer = response(429, b"slow", Retry_After="1")
    info = aiohttp.RequestInfo(None, "POST", {}, None)  # type: ignore[arg-type]
    said = Message()
    said["Retry-After"] = "1"
    gone = urllib.error.HTTPError("http://provider", 429, "no", said, io.BytesIO(b"slow"))
    requests = like(
        "requests.exceptions", "HTTPError", like("requests", "RequestException", OSError)
    )
    errors: dict[bytes, list[Exception]] = {
        b"slow": [
            httpx.HTTPStatusError("no", request=REQUEST, response=answer),
            gone,
            raised(requests("no"), response=answer),
        ],
        b"": [aiohttp.ClientResponseError(info, (), status=429, headers={"Retry-After": "1"})],  # type: ignore[arg-type]
    }

    for body, some in errors.items():
        for error in some:
            assert evidence_of(error) == FailureEvidence(429, {"retry-after": "1"}, body)
    assert evidence_of(gone) == FailureEvidence(429, {"retry-after": "1"}, b"")  # it was read


def test_a_closed_body_is_no_body() -> None:
    body = io.BytesIO(b"slow")
    error = urllib.error.HTTPError("http://provider", 500, "no", Message(), body)
    body.close()

    assert evidence_of(error) == FailureEvidence(500)


def test_all_is_bounded() -> None:
    many = {f"X-RateLimit-{n}": "1" for n in range(100)} | {
        "retry-after" + "-" * 2_000: "x" * 2_000
    }
    error = of_sdk(
        "openai", "RateLimitError", status_code=429,
        response=SimpleNamespace(headers=many, content=b"x" * 10_000),
    )  # fmt: skip
    found = evidence_of(error)
    kept = allowed_headers({"retry-after" + "-" * 2_000: "x" * 2_000})

    assert found is not None
    assert (len(found.headers), len(found.body)) == (HEADERS_MAX, BODY_BYTES_MAX)
    assert [(len(k), len(v)) for k, v in kept.items()] == [(HEADER_CHARS_MAX, HEADER_CHARS_MAX)]


# -------------------------------------------------------------------------------------- transport


def connect(cause: BaseException | None = None) -> Exception:
    return raised(httpx.ConnectError("no"), cause)


KEY = aiohttp.client_reqrep.ConnectionKey(
    "h", 1, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)
POOL = like("urllib3.exceptions", "MaxRetryError", like("urllib3.exceptions", "PoolError"))
NEW = like("urllib3.exceptions", "NewConnectionError")
BROKEN = like("requests.exceptions", "ConnectionError", OSError)
READS: list[tuple[Exception, Transport]] = [
    (httpx.ReadTimeout("x"), "timeout"),
    (httpx.WriteTimeout("x"), "timeout"),
    (httpx.ConnectTimeout("x"), "connect"),
    (connect(), "connect"),
    (connect(raised(httpx.ConnectError("y"), socket.gaierror(-2, "no name"))), "dns"),
    (connect(ssl.SSLCertVerificationError("no")), "tls"),
    (httpx.ReadError("x"), "reset"),
    (raised(httpx.ReadError("x"), ssl.SSLError("bad record")), "reset"),
    (httpx.RemoteProtocolError("x"), "reset"),
    (httpx.ProxyError("x"), "connect"),
    (httpx.DecodingError("x"), "protocol"),
    (aiohttp.ServerDisconnectedError(), "reset"),
    (aiohttp.ServerTimeoutError(), "timeout"),
    (aiohttp.ConnectionTimeoutError(), "connect"),
    (aiohttp.ClientPayloadError("x"), "reset"),
    (aiohttp.ClientConnectorError(KEY, OSError(111, "refused")), "connect"),
    (aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "no name")), "dns"),
    (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "no")), "tls"),
    (of_sdk("openai", "APITimeoutError", httpx.ReadTimeout("x")), "timeout"),
    (of_sdk("openai", "APITimeoutError", httpx.ConnectTimeout("x")), "connect"),
    (of_sdk("openai", "APITimeoutError"), "timeout"),
    (of_sdk("anthropic", "APIConnectionError", connect(socket.gaierror())), "dns"),
    (of_sdk("anthropic", "APIConnectionError", httpx.RemoteProtocolError("x")), "reset"),
    (of_sdk("anthropic", "APIConnectionError", ValueError("x")), "reset"),
    (of_sdk("openai", "APIConnectionError"), "reset"),
    (raised(BROKEN("x"), raised(POOL("x"), reason=NEW("x"))), "connect"),
    (BROKEN("x"), "reset"),
    (
        like("requests.exceptions", "ReadTimeout", like("requests.exceptions", "Timeout"))("x"),
        "timeout",
    ),
    (urllib.error.URLError(ConnectionRefusedError()), "connect"),
    (urllib.error.URLError(socket.gaierror()), "dns"),
    (urllib.error.URLError(TimeoutError()), "timeout"),
    (urllib.error.URLError("odd"), "reset"),
    (http.client.RemoteDisconnected("x"), "reset"),
    (http.client.IncompleteRead(b""), "reset"),
    (http.client.BadStatusLine("x"), "protocol"),
    (TimeoutError(), "timeout"),
    (ConnectionResetError(), "reset"),
    (BrokenPipeError(), "reset"),
    (ConnectionRefusedError(), "connect"),
    (socket.gaierror(), "dns"),
    (ssl.SSLCertVerificationError("x"), "tls"),
]


@pytest.mark.parametrize(("error", "kind"), READS, ids=lambda one: type(one).__name__)
def test_how_the_transport_failed(error: Exception, kind: Transport) -> None:
    assert evidence_of(error) == FailureEvidence(transport=kind)


def test_a_failed_call_before_is_no_part_of_this_one() -> None:
    """What may have been sent is never said to be unsent, for what went wrong in an earlier try."""
    later = httpx.ReadTimeout("x")
    later.__context__ = connect(socket.gaierror())

    assert evidence_of(later) == FailureEvidence(transport="timeout")


def test_an_answer_that_cannot_be_read_has_its_status() -> None:
    error = of_sdk(
        "openai", "APIResponseValidationError", status_code=200, response=response(200, b"<html>")
    )

    assert evidence_of(error) == FailureEvidence(200, {}, b"<html>", "protocol")


def test_a_call_for_want_of_a_connection_was_kept_back() -> None:
    pool = httpx.PoolTimeout("busy")
    later = httpx.ReadTimeout("x")
    later.__context__ = pool

    assert was_kept_back(pool)
    assert was_kept_back(of_sdk("openai", "APITimeoutError", pool))
    assert not was_kept_back(later)
    assert not was_kept_back(ValueError())


# ------------------------------------------------------------------------------- not a provider's

MINE: list[BaseException] = [
    KeyError("mine"),
    ValueError("mine"),
    OSError("disk full"),
    FileNotFoundError(),
    json.JSONDecodeError("x", "", 0),
    KeyboardInterrupt(),
    of_sdk("openai", "OpenAIError"),  # no key was given
    of_sdk("openai", "LengthFinishReasonError"),
    httpx.InvalidURL("x"),
    httpx.UnsupportedProtocol("x"),
    httpx.LocalProtocolError("x"),
    like("redis.exceptions", "ConnectionError")("x"),
    like("mine", "TimeoutError", TimeoutError)("x"),
    raised(like("mine", "Wrapped")("x"), httpx.ReadTimeout("x")),
    escalade.DeadlineReached("x"),
    raised(like("mine", "HasStatus")("x"), status_code=429),
    raised(like("google.cloud.storage", "Error")("x"), code=429),
]


@pytest.mark.parametrize("error", MINE, ids=lambda one: type(one).__name__)
def test_what_is_no_providers_failure_is_not_taken_for_one(error: BaseException) -> None:
    assert evidence_of(error) is None


def test_a_chain_that_goes_round_ends() -> None:
    error = of_sdk("openai", "APIConnectionError")
    error.__cause__ = error

    assert evidence_of(error) == FailureEvidence(transport="reset")


def test_an_answer_that_its_sdk_raises() -> None:
    done = SimpleNamespace(usage=None)
    cut = of_sdk("openai", "LengthFinishReasonError", completion=done)

    assert answer_in(cut) == ("length", done)
    assert answer_in(of_sdk("openai", "ContentFilterFinishReasonError")) == ("content_filter", None)
    assert answer_in(like("mine", "LengthFinishReasonError")("x")) is None
    assert answer_in(ValueError()) is None
