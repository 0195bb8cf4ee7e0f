"""How an export travels: OTLP over gRPC, or over HTTP with the server's one client."""

from pathlib import Path

import grpc
from grpc import aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from escalade_server.engine.ports import Poster, PostFailedError
from escalade_server.telemetry.export import ExportError, Send
from escalade_server.telemetry.otel import TraceSettings

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_C = grpc.StatusCode
_AGAIN = frozenset(
    {
        _C.CANCELLED, _C.DEADLINE_EXCEEDED, _C.RESOURCE_EXHAUSTED, _C.ABORTED, _C.OUT_OF_RANGE,
        _C.UNAVAILABLE, _C.DATA_LOSS,
    }
)  # fmt: skip
"""As OTLP has it; the same for the statuses of HTTP."""
_HTTP_AGAIN = frozenset({429, 502, 503, 504})
_OPTIONS = (("grpc.enable_retries", 0),)


def channel_of(settings: TraceSettings) -> aio.Channel:
    """Open the channel of exports over gRPC; nothing is dialled yet.

    Raises:
        OSError: a file of certificates cannot be read.
    """
    if not settings.secure:
        return aio.insecure_channel(settings.endpoint, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        _read(settings.certificate), _read(settings.client_key), _read(settings.client_certificate)
    )
    return aio.secure_channel(settings.endpoint, credentials, options=_OPTIONS)


def _read(file: str) -> bytes | None:
    return Path(file).read_bytes() if file else None


def over_grpc(channel: aio.Channel, settings: TraceSettings) -> Send:
    """Send over a channel."""
    call: aio.UnaryUnaryMultiCallable[bytes, ExportTraceServiceResponse] = channel.unary_unary(
        METHOD, response_deserializer=ExportTraceServiceResponse.FromString
    )
    headers, timeout_s = settings.headers, settings.timeout_ms / 1_000

    async def send(data: bytes) -> int:
        try:
            answer = await call(data, timeout=timeout_s, metadata=headers)
        except aio.AioRpcError as error:
            code = error.code()
            raise ExportError(f"status {code.name}", again=code in _AGAIN) from None
        return int(answer.partial_success.rejected_spans)

    return send


def over_http(poster: Poster, settings: TraceSettings) -> Send:
    """Send with a client of HTTP; what an answer says beside its status is not read."""
    headers = (("content-type", "application/x-protobuf"), *settings.headers)

    async def send(data: bytes) -> int:
        try:
            status = await poster.post(settings.endpoint, headers, data, settings.timeout_ms)
        except PostFailedError as error:
            raise ExportError(f"{error}", again=True) from None
        if not 200 <= status < 300:
            raise ExportError(f"status {status}", again=status in _HTTP_AGAIN)
        return 0

    return send
