"""W3C Trace Context in gRPC metadata: taken as written, or not at all."""

import pytest

from escalade_server.api.trace_context import trace_of
from escalade_server.core.tracing import TraceContext, span_id, trace_id, traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_context_is_read() -> None:
    assert trace_of([("x", "y"), ("traceparent", GOOD)]) == TraceContext(TRACE, SPAN, sampled=True)
    off = trace_of([("traceparent", f" 00-{TRACE}-{SPAN}-00 ")])
    assert off is not None
    assert not off.sampled


@pytest.mark.parametrize(
    "value",
    [f"cc-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", GOOD[:-2] + "03"],
)
def test_later_versions_and_flags_are_read_as_far_as_they_are_known(value: str) -> None:
    assert trace_of([("traceparent", value)]) == TraceContext(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize(
    "value",
    [
        "", "nonsense", GOOD.upper(), GOOD[:-1], GOOD + "-more", GOOD + "\n", f"ff{GOOD[2:]}",
        f"0{GOOD[2:]}", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g", f"cc-{TRACE}-{SPAN}-01.x", b"bytes",
    ],
)  # fmt: skip
def test_what_is_malformed_begins_a_fresh_trace(value: str | bytes) -> None:
    assert trace_of([("traceparent", value)]) is None


def test_nothing_and_two_are_none() -> None:
    assert trace_of(None) is None
    assert trace_of([("traceparent", GOOD), ("traceparent", GOOD)]) is None


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        (("a=1,b@v=x y",), "a=1,b@v=x y"),
        (("a=1", " b=2 ,,"), "a=1,b=2"),
        (("a=1,a=2",), ""),
        (("A=1",), ""),
        (("a",), ""),
        ((",".join(f"k{n}=v" for n in range(33)),), ""),
        (("a=" + "x" * 256, "b=" + "x" * 256), ""),
    ],
)
def test_vendors_words_are_kept_or_dropped_whole(states: tuple[str, ...], kept: str) -> None:
    told = trace_of([("traceparent", GOOD), *(("tracestate", state) for state in states)])

    assert told is not None
    assert told.state == kept


def test_ids_are_worked_out_of_the_task_and_its_callers_trace() -> None:
    task, context = "f" * 32, TraceContext(TRACE, SPAN, sampled=False, state="secret=1")

    assert (trace_id(task, None), trace_id(task, context)) == (task, TRACE)
    assert span_id(task, 1) == "0" * 15 + "1", "an id is never zero"
    assert traceparent(task, context, 2) == f"00-{TRACE}-0000000000010001-00"
    assert traceparent("0" * 32, None, 1) == f"00-{'0' * 32}-0000000000010001-01"
    assert traceparent("no task", None, 1) == ""
