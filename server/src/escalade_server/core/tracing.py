"""Ids of a task's trace: drawn once with the task's id, worked out wherever they are needed.

A task's own id is its trace id, unless its caller's trace goes on (W3C Trace Context). Ids of
spans count on from the task id's last 64 bits: log, span and outgoing header agree unasked.
"""

import re
from dataclasses import dataclass

_MASK = 2**64 - 1
_TASK_ID = re.compile(r"[0-9a-f]{32}")
ROOT, ASSESS, SETTLE = 0, 1, 2
ATTEMPT, LAYER, WAIT, QUEUED = 0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000
"""Where the ids of spans of one kind begin; the number of the span is added."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The trace that a caller's task belongs to; ids in hexadecimal."""

    trace_id: str
    span_id: str
    """The caller's span, under which ours stands."""
    sampled: bool
    """The caller keeps this trace."""
    state: str = ""
    """Vendors' own words (``tracestate``); kept with our span, never told to providers."""


def trace_id(task_id: str, context: TraceContext | None) -> str:
    """Name the trace of a task: its caller's, else its own."""
    return task_id if context is None else context.trace_id


def span_id(task_id: str, number: int) -> str:
    """Name a span of a task, 16 hex digits; ``number`` is one of this module's, plus a count."""
    return f"{(int(task_id[16:32], 16) + number) & _MASK or 1:016x}"


def traceparent(task_id: str, context: TraceContext | None, attempt: int) -> str:
    """Write the header that puts what a provider does under our attempt; empty without ids.

    Ours is a task that may be kept, whatever it does, unless its caller said that it is not.
    """
    if _TASK_ID.fullmatch(task_id) is None:
        return ""
    flags = "00" if context is not None and not context.sampled else "01"
    return f"00-{trace_id(task_id, context)}-{span_id(task_id, ATTEMPT + attempt)}-{flags}"
