"""The one file that touches the HTTP library (docs/adr/0002-http-client.md).

What leaves here is a status, headers and bytes, or a `TransportFailure`; no class of the library
does. It follows no redirect (a 3xx is an answer, U24), trusts no proxy variable, keeps no cookie,
asks for no compression (U21), and never sends a POST twice. Only the caller's clock ends an
answer: the sole time limit here is the one for connecting.
"""

import asyncio
import errno
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

from escalade_server.providers.codec import WireRequest

CONNECT_TIMEOUT_MS: Final = 5_000
ERROR_BODY_BYTES_MAX: Final = 64 << 10

READ_BYTES_MAX: Final = 16 << 10
"""Of one read: what is made of it is made in one go, and other calls wait for that."""

INFORMATIONAL_MAX: Final = 100
"""Of answers with a status of 100 to 199, in one read."""
_INFORMATIONAL: Final = b"HTTP/1.1 1"

_WRITE_BYTES: Final = 256 << 10
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Visible ASCII, with blanks inside only: a key read with its newline must not get past (G9).
_HEADER_VALUE: Final = re.compile(r"(?:[!-~](?:[ -~\t]*[!-~])?)?")


class TransportKind(Enum):
    """What broke, by where in the life of a call."""

    REQUEST = "request"
    """The request itself cannot be sent: a bad URL or header. Configuration, not the provider."""
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    """No connection in time: name, TCP, TLS and, under a cap, the queue for a connection."""
    RESET = "reset"
    """The connection ended before the headers of an answer."""
    CUT = "cut"
    """The connection ended inside the body."""
    PROTOCOL = "protocol"
    """Not HTTP as agreed, or beyond the bounds on headers."""
    REDIRECT = "redirect"
    """Kept for totality: redirects are not followed, so the library has no reason to raise it."""


class TransportFailure(Exception):
    """A call broke below HTTP.

    Attributes:
        kind: what broke.
        detail: what is known beyond the kind, for people, or nothing; never holds a URL, a header
            value, content or a name of a class.
        sent: False only if it is known that no byte of the request left this process.
    """

    def __init__(self, kind: TransportKind, detail: str, *, sent: bool) -> None:
        super().__init__(f"{kind.value}: {detail}" if detail else kind.value)
        self.kind = kind
        self.detail = detail
        self.sent = sent


_K = TransportKind
KINDS: Final[Mapping[type[BaseException], TransportKind]] = MappingProxyType(
    {
        # The nearest class in an exception's method resolution order decides.
        aiohttp.InvalidURL: _K.REQUEST,
        aiohttp.NonHttpUrlClientError: _K.REQUEST,
        ValueError: _K.REQUEST,  # a URL with credentials in it
        aiohttp.ClientConnectorError: _K.CONNECT,
        aiohttp.ClientSSLError: _K.TLS,
        aiohttp.ServerFingerprintMismatch: _K.TLS,
        aiohttp.ServerTimeoutError: _K.TIMEOUT,
        TimeoutError: _K.TIMEOUT,
        aiohttp.ClientConnectionError: _K.RESET,
        OSError: _K.RESET,
        aiohttp.ClientPayloadError: _K.CUT,
        aiohttp.ClientError: _K.PROTOCOL,
        HttpProcessingError: _K.PROTOCOL,
        aiohttp.RedirectClientError: _K.REDIRECT,
        aiohttp.InvalidUrlRedirectClientError: _K.REDIRECT,
        aiohttp.NonHttpUrlRedirectClientError: _K.REDIRECT,
        aiohttp.TooManyRedirects: _K.REDIRECT,
    }
)
"""Total over what the library raises; anything else is a bug and passes through."""

_CAUGHT: Final = tuple(KINDS)
_NEVER_SENT: Final = frozenset({_K.REQUEST, _K.CONNECT, _K.TLS})


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How one process may use connections.

    Attributes:
        connections_max: most open connections at once; 0 is no limit. A call over it waits, within
            its time to connect.
        keepalive_ms: how long an idle connection is kept. Short, because a provider that closes
            it in the instant of reuse costs an attempt.
        dns_ttl_ms: how long a resolved name is trusted (U1).
        ca_file: PEM bundle to trust instead of the system's; verification is always on (U2).
    """

    connections_max: int = 0
    keepalive_ms: int = 15_000
    dns_ttl_ms: int = 30_000
    ca_file: str | None = None


class _Body(aiohttp.Payload):
    """A request body that knows how much of the request has left.

    The library keeps the head back until the first write of the body and sends both at once, so
    as long as this has not written, nothing has been sent.
    """

    _value: bytes

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self.sent = False
        self._uploading: asyncio.WriteTransport | None = None

    def abandon(self) -> None:
        """Drop what is still to be written.

        The library closes a cancelled connection politely, so a slow reader would get the whole
        prompt after all, and bill it.
        """
        if self._uploading is not None:
            self._uploading.abort()

    @property
    def size(self) -> int:
        return len(self._value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        transport = writer.transport
        if transport is None or transport.is_closing() or _is_spoilt(transport):
            raise ConnectionResetError(errno.ECONNRESET, "the connection ended in the pool")
        self.sent = True
        self._uploading = transport
        view = memoryview(self._value)
        for start in range(0, len(view) or 1, _WRITE_BYTES):
            await writer.write(view[start : start + _WRITE_BYTES])
        # From here on the connection may be another call's, for all we know.
        self._uploading = None


def _is_spoilt(transport: asyncio.WriteTransport) -> bool:
    """Say whether a pooled connection holds bytes that nobody asked for (U22)."""
    protocol = transport.get_protocol()
    return isinstance(protocol, ResponseHandler) and protocol.should_close


class _Handler(ResponseHandler):
    """A connection whose failure reaches whoever waits for its body.

    The library tells a broken framing in mid-body to the connection alone: a reader that waits
    would wait for ever, and one that comes later be told of a programmer's error.
    """

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is a flood of answers before the answer (U25)."""
        body = self._payload
        in_head = body is None or body.is_eof()
        if in_head and data.count(_INFORMATIONAL) > INFORMATIONAL_MAX:
            told = "a flood of informational answers"
            self.set_exception(HttpProcessingError(code=400, message=told))
            if self.transport is not None:
                self.transport.abort()
            return
        super().data_received(data)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(exc, *cause)


def _make_handler(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return _Handler(loop)


class _Connector(aiohttp.TCPConnector):
    """Makes connections of our kind; the library has no other place to say so."""

    def __init__(self, limits: HttpLimits) -> None:
        super().__init__(
            limit=limits.connections_max,
            keepalive_timeout=limits.keepalive_ms / 1_000,
            ttl_dns_cache=limits.dns_ttl_ms // 1_000,
            ssl=ssl.create_default_context(cafile=limits.ca_file),
        )
        self._factory = partial(_make_handler, self._loop)


class HttpResponse:
    """An answer whose headers are here and whose body is on its way.

    End it with `close` in every case; until then it owns its connection.
    """

    __slots__ = ("_encoding", "_response", "_turn", "content_type", "status")

    def __init__(self, response: aiohttp.ClientResponse, turn: asyncio.Lock) -> None:
        self._response = response
        self._turn = turn
        headers = response.headers
        self.status: int = response.status
        self.content_type: str = headers.get("Content-Type", "")
        self._encoding = headers.get("Content-Encoding", "identity")

    @property
    def headers(self) -> Mapping[str, str]:
        """All headers, names in lower case, repeated ones joined as RFC 9110 5.3 has it."""
        joined: dict[str, str] = {}
        for name, value in self._response.headers.items():
            key = name.lower()
            text = value.encode(errors="surrogateescape").decode(errors="replace")
            joined[key] = f"{joined[key]}, {text}" if key in joined else text
        return joined

    def header(self, name: str) -> str:
        """One header's first value, or nothing; far cheaper than all of them."""
        return self._response.headers.get(name, "")

    async def read(self) -> bytes:
        """Return what has arrived, waiting only if that is nothing; b"" is the regular end.

        Those that send faster than they are taken are read in turn, ``READ_BYTES_MAX`` in each
        turn of the loop: many of them together must not stop it.

        Raises:
            TransportFailure: the body was cut, or came compressed although we asked for plain.
        """
        if self._encoding != "identity":
            raise TransportFailure(
                TransportKind.PROTOCOL, "the body came compressed, unasked", sent=True
            )
        try:
            data = await self._response.content.read(READ_BYTES_MAX)
        except _CAUGHT as error:
            failure = _failure(error, sent=True)
        else:
            if len(data) == READ_BYTES_MAX:
                async with self._turn:
                    await asyncio.sleep(0)
            return data
        # Raised outside the handler: the library's exceptions carry our request headers, and
        # nothing may find them by way of __context__ (D6).
        raise failure

    async def body(self, bytes_max: int = ERROR_BODY_BYTES_MAX) -> bytes:
        """Return at most `bytes_max` bytes of an error's body; never raises.

        The status is the news, so a body that is cut or compressed is given as far as it is
        readable. The caller bounds the time.
        """
        got = bytearray()
        with suppress(TransportFailure):
            while len(got) < bytes_max and (data := await self.read()):
                got += data
        return bytes(got[:bytes_max])

    async def finish(self, within_ms: int) -> None:
        """End an answer that is complete for its dialect, keeping the connection if possible.

        The last bytes of the framing often come a moment after the last event; without them the
        connection could not be used again.
        """
        if not self._response.content.at_eof():
            with suppress(TransportFailure, TimeoutError):
                async with asyncio.timeout(within_ms / 1_000):
                    while await self.read():
                        pass
        self.close(abort=False)

    def close(self, *, abort: bool) -> None:
        """Let go of the connection; safe twice.

        Args:
            abort: close the socket now, dropping what is not yet written, so that the provider
                learns at once (R25). Otherwise the connection goes back to the pool if the body
                is at its end, and is closed if not.
        """
        response = self._response
        if abort:
            connection = response.connection
            if connection is not None and connection.transport is not None:
                connection.transport.abort()
            response.close()
        else:
            response.release()


class HttpClient:
    """Sends requests over pooled HTTP/1.1 connections. Use as an async context manager."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None
        self._turn = asyncio.Lock()
        self._timeouts: dict[int, aiohttp.ClientTimeout] = {}

    async def __aenter__(self) -> Self:
        """Open the pool; no connection is made yet."""
        self._session = aiohttp.ClientSession(
            connector=_Connector(self._limits),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "escalade", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def open(
        self, request: WireRequest, connect_timeout_ms: int = CONNECT_TIMEOUT_MS
    ) -> HttpResponse:
        """Send a request and return when the headers of its answer are here.

        Cancelling closes the connection at once. A POST goes out again only if its connection
        turned out to be closed before a byte was written, and then once.

        Raises:
            TransportFailure: there is no answer.
        """
        _check(request.headers)
        failure: TransportFailure | None = None
        for _ in range(2):
            body = _Body(request.body)
            try:
                response = await self._send(request, body, connect_timeout_ms)
            except asyncio.CancelledError:
                body.abandon()
                raise
            except _CAUGHT as error:
                failure = _failure(error, sent=body.sent)
            else:
                if body.sent:
                    return response
                # An answer to nothing: it is another call's, sent twice or too long (U22).
                response.close(abort=True)
                failure = TransportFailure(
                    TransportKind.RESET, "a connection from the pool was spoilt", sent=False
                )
            if failure.sent or failure.kind is not TransportKind.RESET:
                break
        assert failure is not None
        raise failure

    async def _send(
        self, request: WireRequest, body: _Body, connect_timeout_ms: int
    ) -> HttpResponse:
        session = self._session
        assert session is not None, "the client is not open"
        timeout = self._timeouts.get(connect_timeout_ms)
        if timeout is None:
            timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_ms / 1_000)
            self._timeouts[connect_timeout_ms] = timeout
        response = await session.request(
            request.method,
            request.url,
            data=body,
            headers=request.headers,
            allow_redirects=False,
            timeout=timeout,
        )
        return HttpResponse(response, self._turn)


async def date_of(http: HttpClient, url: str) -> str:
    """Ask a server what time it is there, without any key; empty when it does not say."""
    asked = WireRequest("GET", url, (), b"", streamed=False)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1_000):
            response = await http.open(asked)
    except (TransportFailure, TimeoutError):
        return ""
    response.close(abort=True)
    return response.header("Date")


def _check(headers: Iterable[tuple[str, str]]) -> None:
    """Check every header before the library sees it: its message would show the value (10b)."""
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise TransportFailure(
                TransportKind.REQUEST,
                f"header {name!r}: a character that may not be sent, or a blank at its end",
                sent=False,
            )


def _failure(error: BaseException, *, sent: bool) -> TransportFailure:
    """Turn an exception of the library into ours, leaving behind everything it carries."""
    kind = next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)
    if kind in _NEVER_SENT or isinstance(error, aiohttp.ConnectionTimeoutError):
        sent = False
    return TransportFailure(kind, _detail(error), sent=sent)


def _detail(error: BaseException) -> str:
    """Say what the kind does not: a certificate's fault, or the system's words for its error."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known to DNS"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        certificate = error.certificate_error
        if isinstance(certificate, ssl.SSLCertVerificationError):
            return certificate.verify_message
    if not isinstance(error, OSError) or isinstance(error, aiohttp.ClientSSLError):
        return ""  # TLS has numbers of its own
    number = error.errno or errno.ECONNRESET
    return "" if number == errno.ECONNRESET else os.strerror(number).lower()
