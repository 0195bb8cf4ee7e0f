"""From the spans of a task, as they travel, to the rows of its waterfall."""

from collections.abc import Iterator, Mapping

from escalade.v1.operations_service_pb2 import GetTraceResponse, TraceEvent, TraceSpan
from escalade_server.cli import output
from escalade_server.report.waterfall import Kind, Row, Waterfall
from escalade_server.telemetry import conventions as c

VOID = ("failed", "retracted", "rejected", "cancelled", "unreported")
"""States of an attempt that is not the answer."""


def waterfall_of(told: GetTraceResponse) -> Waterfall:
    """Lay out a trace: what is a part of what is indented, and all is in its order of time."""
    depths = dict[str, int]()
    rows = []
    tried = {
        span.attributes.get(c.MODEL, ""): int(span.attributes[c.ATTEMPT])
        for span in reversed(told.spans)
        if c.ATTEMPT in span.attributes
    }
    for span in told.spans:
        depth = depths.get(span.parent_id, -1) + 1
        depths[span.span_id] = depth
        rows.append(_row(span, depth, tried))
    root = dict(told.spans[0].attributes) if told.spans else {}
    state = root.get(c.OUTCOME, "runs still").replace("_", " ")
    facts = [("request", told.request_id), ("trace", told.trace_id), ("outcome", state)]
    if told.agent:
        facts.insert(0, ("agent", told.agent))
    if c.TASK_TYPE in root:
        facts.append(("type", root[c.TASK_TYPE]))
    costs = [int(span.attributes.get(c.LIST_COST, 0)) for span in told.spans]
    charged = [int(span.attributes.get(c.CHARGED_COST, 0)) for span in told.spans]
    facts.append(("list value", output.usd(sum(costs))))
    facts.append(("charged", output.usd(sum(charged))))
    return Waterfall(f"Task {told.request_id}", told.story, tuple(facts), tuple(rows))


def _row(span: TraceSpan, depth: int, tried: Mapping[str, int]) -> Row:
    known = span.attributes
    name, kind = span.name, Kind.STEP
    if not depth:
        name, kind = "task", Kind.TASK
    elif span.name == c.SPAN_WAIT:
        kind = Kind.WAIT
    elif span.name.startswith(f"{c.SPAN_LAYER} "):
        name, kind = known.get(c.LAYER, span.name), Kind.LAYER
    elif c.ATTEMPT in known:
        state = known.get(c.ATTEMPT_STATUS, "")
        kind = Kind.FAILED if span.failed or state in VOID else Kind.ATTEMPT
        model = known.get(c.MODEL, "").rpartition("/")[2]
        name = f"{known[c.ATTEMPT]}. {model}{f' {state}' if state in VOID else ''}"
    first = next((e.time for e in span.events if e.name == c.EVENT_FIRST_CHUNK), None)
    return Row(
        kind,
        depth,
        name,
        span.started.ToMilliseconds(),
        span.ended.ToMilliseconds(),
        None if first is None else first.ToMilliseconds(),
        _tokens(known),
        output.usd(int(known[c.LIST_COST])) if c.LIST_COST in known else "",
        tuple(_notes(span, kind, tried)),
    )


def _tokens(known: Mapping[str, str]) -> str:
    if c.INPUT_TOKENS not in known:
        return ""
    return f"{int(known[c.INPUT_TOKENS]):,} → {int(known.get(c.OUTPUT_TOKENS, 0)):,}"


def _notes(span: TraceSpan, kind: Kind, tried: Mapping[str, int]) -> Iterator[str]:
    """Say why a layer was entered, why an attempt failed, what a wait waits for."""
    known = span.attributes
    if kind is Kind.LAYER and c.REASON in known:
        yield f"{known[c.KIND]} from {known[c.FROM]}, {known[c.REASON]}: {known[c.DETAIL]}"
    if kind is Kind.FAILED and known.get(c.ATTEMPT_STATUS) != "rejected":
        failure = known.get(c.ERROR_TYPE, "")
        detail = known.get(c.ATTEMPT_DETAIL, "")
        said = ": ".join(part for part in (failure, detail) if part)
        if said:
            yield said
    if kind is Kind.WAIT:
        why = known.get(c.WAIT_DETAIL) or known.get(c.WAIT_RULE, "")
        yield f"{known.get(c.WAIT_REASON, '')}: {why}"
    if kind is Kind.TASK and span.failed:
        yield span.detail
    if span.name == c.SPAN_ASSESS:
        score = float(known.get(c.SCORE, 0))
        yield f"score {score:.1f}, starts in {known.get(c.START_LAYER)}"
    for event in span.events:
        yield from _happened(event, tried)


def _happened(event: TraceEvent, tried: Mapping[str, int]) -> Iterator[str]:
    known = event.attributes
    match event.name:
        case c.EVENT_SELECTED:
            number, passed = int(known[c.ATTEMPT]), known.get(c.PASSED_OVER, "").split("; ")
            left = [
                each  # what was tried before stands there with its failure
                for each in passed
                if each and tried.get(each.rpartition(": ")[0], number) >= number
            ]
            if left:
                yield f"passed over for attempt {number}: {'; '.join(left)}"
        case c.EVENT_FALLBACK:
            yield f"fallback from {known[c.FROM_MODEL]} to {known[c.TO_MODEL]}: {known[c.FAILURE]}"
        case c.EVENT_RETRACTED:
            yield f"retracted, what was delivered is void: {known.get(c.ATTEMPT_DETAIL, '')}"
        case c.EVENT_GATE:
            if known.get(c.GATE_PASSED) == "True":
                yield f"gate {known[c.GATE]}: passed"
            else:
                yield f"gate {known[c.GATE]}: failed, {known.get(c.GATE_DETAIL, '')}"
        case c.EVENT_ALERT:
            yield f"alert {known[c.ALERT]}: {known[c.ALERT_DETAIL]}"
        case _:
            return
