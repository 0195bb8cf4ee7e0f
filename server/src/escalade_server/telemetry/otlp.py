"""Spans as OTLP has them: written straight into its messages (ADR 0011)."""

from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from escalade_server.core.tracing import TraceContext
from escalade_server.telemetry import conventions as c
from escalade_server.telemetry.attributes import Attribute
from escalade_server.telemetry.spans import Span, SpanKind

_NANOS = 1_000_000
_LEAST = 1
"""Nanoseconds of a span: Jaeger marks one of no length as wrong."""
_ERROR = Status.STATUS_CODE_ERROR
_SAMPLED, _KNOWN, _REMOTE = 0x01, 0x100, 0x200
_KINDS = MappingProxyType(
    {
        SpanKind.INTERNAL: WireSpan.SPAN_KIND_INTERNAL,
        SpanKind.SERVER: WireSpan.SPAN_KIND_SERVER,
        SpanKind.CLIENT: WireSpan.SPAN_KIND_CLIENT,
    }
)


class _Pairs(Protocol):
    """A message's attributes."""

    def add(self) -> KeyValue: ...


class Parcel(NamedTuple):
    """Finished spans of one task."""

    trace_id: str
    context: TraceContext | None
    spans: Sequence[Span]


class Packer:
    """Writes exports of one process."""

    def __init__(self, resource: Iterable[Attribute], version: str) -> None:
        """Say what the process is."""
        self._empty = ExportTraceServiceRequest()
        listed = self._empty.resource_spans.add()
        _put(listed.resource.attributes, resource)
        listed.schema_url = c.SCHEMA_URL
        scope = listed.scope_spans.add()
        scope.schema_url = c.SCHEMA_URL
        scope.scope.name, scope.scope.version = "escalade", version

    def pack(self, parcels: Iterable[Parcel]) -> bytes:
        """Write one export."""
        export = ExportTraceServiceRequest()
        export.CopyFrom(self._empty)
        into = export.resource_spans[0].scope_spans[0].spans
        for trace_id, context, spans in parcels:
            trace = bytes.fromhex(trace_id)
            for span in spans:
                _write(into.add(), span, trace, context)
        return export.SerializeToString()


def _write(wire: WireSpan, span: Span, trace: bytes, context: TraceContext | None) -> None:
    wire.trace_id = trace
    wire.span_id = bytes.fromhex(span.id)
    wire.name = span.name
    wire.kind = _KINDS[span.kind]
    flags = _SAMPLED | _KNOWN
    if span.parent:
        wire.parent_span_id = bytes.fromhex(span.parent)
        if context is not None and span.parent == context.span_id:
            flags |= _REMOTE
            wire.trace_state = context.state
    wire.flags = flags
    wire.start_time_unix_nano = span.start_ms * _NANOS
    length = (span.end_ms or span.start_ms) * _NANOS - wire.start_time_unix_nano
    wire.end_time_unix_nano = wire.start_time_unix_nano + max(length, _LEAST)
    _put(wire.attributes, span.attributes)
    for event in span.events:
        told = wire.events.add()
        told.name, told.time_unix_nano = event.name, event.at_ms * _NANOS
        _put(told.attributes, event.attributes)
    if span.error is not None:
        wire.status.code = _ERROR
        wire.status.message = span.error


def _put(into: _Pairs, attributes: Iterable[Attribute]) -> None:
    for key, value in attributes:
        pair = into.add()
        pair.key = key
        wire = pair.value
        if isinstance(value, str):
            wire.string_value = value
        elif isinstance(value, bool):
            wire.bool_value = value
        elif isinstance(value, int):
            wire.int_value = value
        elif isinstance(value, float):
            wire.double_value = value
        else:
            for each in value:
                wire.array_value.values.add().string_value = each
