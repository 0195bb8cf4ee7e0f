"""A span for every call on the wire, if OpenTelemetry's API is installed; its trace goes along.

Names follow OpenTelemetry's conventions for RPC, version 1.44.0, as the service's own spans do.
"""

import importlib
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple, Protocol

from escalade._errors import EscaladeError

Headers = tuple[tuple[str, str], ...]
COMPLETE = "escalade.v1.RouterService/Complete"
ROUTE = "escalade.v1.RouterService/Route"


class _Span(Protocol):
    """What is needed of a span."""

    def set_attribute(self, key: str, value: str) -> None: ...

    def set_status(self, status: object) -> None: ...

    def end(self) -> None: ...


class _Tracer(Protocol):
    """What is needed of a tracer."""

    def start_span(
        self, name: str, context: object, kind: object, attributes: Mapping[str, str]
    ) -> _Span: ...


class _Api(NamedTuple):
    """What is needed of OpenTelemetry."""

    trace: "_TraceModule"
    propagate: "_PropagateModule"
    context: "_ContextModule"


class _TraceModule(Protocol):
    SpanKind: "_Kinds"
    StatusCode: "_Codes"

    def get_tracer(self, name: str) -> _Tracer: ...

    def set_span_in_context(self, span: _Span, context: object) -> object: ...

    def Status(self, code: object) -> object: ...  # noqa: N802 - theirs


class _Kinds(Protocol):
    CLIENT: object


class _Codes(Protocol):
    ERROR: object


class _PropagateModule(Protocol):
    def inject(self, carrier: dict[str, str], context: object) -> None: ...


class _ContextModule(Protocol):
    def get_current(self) -> object: ...


@cache
def _api() -> _Api | None:
    """OpenTelemetry's API; None if it is not installed."""
    try:
        found = [importlib.import_module(f"opentelemetry.{name}") for name in _Api._fields]
    except ImportError:
        return None
    trace, propagate, context = found
    return _Api(trace, propagate, context)


def code_of(error: EscaladeError) -> str:
    """The status of a call that ended so, by its name."""
    return "UNKNOWN" if error.code is None else error.code.name


def current() -> object:
    """The context that a call is made in, for spans that begin later."""
    api = _api()
    return None if api is None else api.context.get_current()


class CallSpan:
    """The span of one call; it is nothing, and costs as much, without OpenTelemetry."""

    def __init__(self, method: str, request_id: str, context: object) -> None:
        self.headers: Headers = ()
        self._span: _Span | None = None
        api = self._api = _api()
        if api is None:
            return
        known = {
            "rpc.system.name": "grpc", "rpc.method": method, "escalade.request_id": request_id,
        }  # fmt: skip
        tracer = api.trace.get_tracer("escalade")
        self._span = tracer.start_span(method, context, api.trace.SpanKind.CLIENT, known)
        carrier: dict[str, str] = {}
        api.propagate.inject(carrier, api.trace.set_span_in_context(self._span, context))
        self.headers = tuple(
            (key.lower(), value)
            for key, value in carrier.items()
            if value.isascii() and value.isprintable()
        )

    def beside(self, given: Headers) -> Headers:
        """Headers of the call; those that the caller gave stand for those of the trace."""
        names = {name for name, _ in given}
        return (*given, *(each for each in self.headers if each[0] not in names))

    def end(self, code: str) -> None:
        """End it with the status of the call; once."""
        span, self._span = self._span, None
        if span is None or self._api is None:
            return
        span.set_attribute("rpc.response.status_code", code)
        if code != "OK":
            trace = self._api.trace
            span.set_attribute("error.type", code)
            span.set_status(trace.Status(trace.StatusCode.ERROR))
        span.end()
