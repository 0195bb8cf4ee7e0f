"""``GetTrace``: how one task went; an agent is told of its own tasks only (D3)."""

from escalade.v1 import error_pb2
from escalade.v1 import operations_service_pb2 as wire
from escalade_server.api.callers import Identity
from escalade_server.api.convert_out import time_to_proto, wire_text
from escalade_server.api.status import Refusal, RefusedError, not_built
from escalade_server.core.catalog import Rank
from escalade_server.engine.ports import StoreError
from escalade_server.engine.traces import Trace, TraceEvent, Traces, TraceSpan, Wanted


async def serve(
    traces: Traces | None, request: wire.GetTraceRequest, caller: Identity
) -> wire.GetTraceResponse:
    """Find the trace and write it.

    Raises:
        RefusedError: no id, no such trace, or the shared state cannot be read.
    """
    if traces is None:
        raise RefusedError(not_built("OperationsService.GetTrace without traces"))
    if not (request.request_id or request.trace_id):
        what = "give the request id or the trace id of the task"
        reason = error_pb2.ERROR_REASON_REQUEST_INVALID
        raise RefusedError(Refusal(reason, f"task: {what}", violations=(("task", what),)))
    agent = None if caller.rank is Rank.OPERATOR else caller.agent
    try:
        found = await traces.find(Wanted(request.request_id, request.trace_id, agent))
    except StoreError as error:
        reason = error_pb2.ERROR_REASON_LEDGER_UNAVAILABLE
        raise RefusedError(Refusal(reason, f"{error}")) from error
    if found is None:
        raise RefusedError(UNKNOWN)
    return to_proto(found)


UNKNOWN = Refusal(
    error_pb2.ERROR_REASON_TRACE_UNKNOWN,
    "no such trace is kept: a task to which something happened is kept for a day, of the others"
    " the last few; `escalade watch --since start` lists what happened",
)


def to_proto(trace: Trace) -> wire.GetTraceResponse:
    """Write a trace."""
    return wire.GetTraceResponse(
        trace_id=trace.trace_id,
        request_id=wire_text(trace.request_id),
        agent=trace.agent,
        story=wire_text(trace.story),
        answered=trace.answered,
        spans=[_span(span) for span in trace.spans],
    )


def _span(span: TraceSpan) -> wire.TraceSpan:
    return wire.TraceSpan(
        span_id=span.id,
        parent_id=span.parent,
        name=wire_text(span.name),
        started=time_to_proto(span.start_ms),
        ended=time_to_proto(span.end_ms),
        failed=span.failed,
        detail=wire_text(span.detail),
        attributes={name: wire_text(text) for name, text in span.attributes.items()},
        events=[_event(event) for event in span.events],
    )


def _event(event: TraceEvent) -> wire.TraceEvent:
    return wire.TraceEvent(
        name=event.name,
        time=time_to_proto(event.at_ms),
        attributes={name: wire_text(text) for name, text in event.attributes.items()},
    )
