"""One account of a provider as the engine sees it: a codec's bytes over HTTP, and how they end."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from escalade_server.core.catalog import Model
from escalade_server.core.commands import CallModel, Candidate, SetBench
from escalade_server.core.events import ChunkArrived
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.standing import Bench
from escalade_server.core.task import Request
from escalade_server.core.tracing import traceparent
from escalade_server.engine.ports import Clock, ProviderFailure
from escalade_server.providers.codec import Codec, Decoder, Endpoint, WireRequest
from escalade_server.providers.http import (
    CONNECT_TIMEOUT_MS,
    HttpClient,
    HttpResponse,
    TransportFailure,
    TransportKind,
)
from escalade_server.providers.resets import ResetHeader, is_none_left, used_up_ms
from escalade_server.providers.signal_tables import vendor_of
from escalade_server.providers.signals import is_long_wait

ERROR_BODY_MS: Final = 2_000
"""How long the body of an error may take; its status is known already."""
ENDING_MS: Final = 250
"""How long the last bytes after a whole answer may take, so that the connection can be kept."""

_C = FailureClass
_K = TransportKind
CLASSES: Final[Mapping[TransportKind, FailureClass]] = MappingProxyType(
    {
        _K.REQUEST: _C.FORBIDDEN,  # our configuration: it will not mend by itself
        _K.CONNECT: _C.OUTAGE,
        _K.TLS: _C.OUTAGE,
        _K.TIMEOUT: _C.OUTAGE,  # no connection in time (U1); silence after it is the core's to time
        _K.RESET: _C.OUTAGE,
        _K.CUT: _C.PROTOCOL,
        _K.PROTOCOL: _C.PROTOCOL,
        _K.REDIRECT: _C.FORBIDDEN,
    }
)
"""What a failure below HTTP means; total over its kinds."""

WORDS: Final[Mapping[TransportKind, str]] = MappingProxyType(
    {
        _K.REQUEST: "the request cannot be sent",
        _K.CONNECT: "it cannot be reached",
        _K.TLS: "no secure connection",
        _K.TIMEOUT: "no connection in time",
        _K.RESET: "the connection was reset",
        _K.CUT: "the answer was cut off",
        _K.PROTOCOL: "the answer was not HTTP as agreed",
        _K.REDIRECT: "the answer led elsewhere",
    }
)
"""The same for people, who read the model's name beside it."""

TRACE_HEADER: Final = "traceparent"
"""Says of which of our attempts a call is (W3C Trace Context)."""

Heed = Callable[[SetBench], None]
"""Takes what is to be set aside, and returns at once."""


Witness = Callable[[str, str], None]
"""Takes a provider's name and the ``Date`` of an answer from it, and returns at once (T5)."""


def ignore(*_told: object) -> None:
    """Heed nothing."""


@dataclass(frozen=True, slots=True)
class DialectProvider:
    """Implements `Provider` for one endpoint."""

    codec: Codec
    endpoint: Endpoint
    http: HttpClient
    clock: Clock
    connect_timeout_ms: int = CONNECT_TIMEOUT_MS
    heed: Heed = ignore
    """Told of limits that good answers say are used up (P14)."""
    witness: Witness = ignore
    """Told what time it is at the provider."""
    limits: tuple[ResetHeader, ...] = field(init=False)
    """Where this vendor writes what is left."""

    def __post_init__(self) -> None:
        """Look the vendor up once."""
        vendor = vendor_of(self.endpoint.provider, self.codec.name)
        object.__setattr__(self, "limits", vendor.reset_headers)

    async def call(self, order: CallModel, request: Request) -> AsyncGenerator[ChunkArrived, None]:
        """Yield one event per upstream read; closing or cancelling aborts the connection (R25).

        Raises:
            ProviderFailure: the call broke, before or after its first chunk.
        """
        candidate = order.candidate
        wire = self.codec.encode(request, candidate, self.endpoint)
        parent = traceparent(order.task_id, request.trace, order.attempt)
        if parent:
            wire = replace(wire, headers=(*wire.headers, (TRACE_HEADER, parent)))
        response = await self._open(wire)
        is_over = False
        try:
            if not 200 <= response.status < 300:
                failure = await self._refusal(response, candidate)
                is_over = True
                raise ProviderFailure(failure)
            self._look_at_limits(response, candidate.model)
            decoder = self.codec.decoder(
                candidate,
                order.attempt,
                streamed=wire.streamed,
                content_type=response.content_type,
                now_ms=self.clock.now_ms(),
            )
            broken: TransportFailure | None = None
            while not decoder.finished:
                try:
                    data = await response.read()
                except TransportFailure as cut:
                    broken = cut
                    break
                if not data:
                    break
                told = decoder.feed(data)
                if isinstance(told, Failure):
                    raise ProviderFailure(told)
                if told is not None:
                    yield told
            for told in _leftovers(decoder):
                if isinstance(told, Failure):
                    # What cut the answer says more than that it was cut.
                    raise ProviderFailure(told if broken is None else self._failure(broken))
                yield told
            await response.finish(ENDING_MS)
            is_over = True
        finally:
            response.close(abort=not is_over)

    @property
    def _connect_ms(self) -> int:
        own = self.endpoint.connect_ms
        return self.connect_timeout_ms if own is None else own

    async def _open(self, wire: WireRequest) -> HttpResponse:
        try:
            response = await self.http.open(wire, self._connect_ms)
        except TransportFailure as broken:
            failure = self._failure(broken)
        else:
            self.witness(self.endpoint.provider, response.header("Date"))
            return response
        raise ProviderFailure(failure)

    def _look_at_limits(self, response: HttpResponse, model: Model) -> None:
        """Set the model aside if this answer took the last of a limit; their view beats ours."""
        if not any(is_none_left(response.header(limit.remaining)) for limit in self.limits):
            return
        now_ms = self.clock.now_ms()
        until_ms = used_up_ms(response.headers, self.limits, now_ms)
        if until_ms is not None and until_ms > now_ms:
            cls = _C.QUOTA_WINDOW if is_long_wait(until_ms, now_ms) else _C.RATE_SHORT
            bench = Bench(until_ms, cls, "its last answer said that nothing is left")
            self.heed(SetBench(model.key, bench))

    async def _refusal(self, response: HttpResponse, candidate: Candidate) -> Failure:
        try:
            async with asyncio.timeout(ERROR_BODY_MS / 1_000):
                body = await response.body()
        except TimeoutError:
            body = b""
        now_ms = self.clock.now_ms()
        return self.codec.classify(candidate, response.status, response.headers, body, now_ms)

    @staticmethod
    def _failure(broken: TransportFailure) -> Failure:
        detail = WORDS[broken.kind] + (f" ({broken.detail})" if broken.detail else "")
        return Failure(CLASSES[broken.kind], detail, code=broken.kind.value, sent=broken.sent)


def _leftovers(decoder: Decoder) -> Iterator[ChunkArrived | Failure]:
    """What a decoder still has at the end."""
    while (told := decoder.close()) is not None:
        yield told
