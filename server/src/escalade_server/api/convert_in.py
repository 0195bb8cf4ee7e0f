"""From ``escalade.v1.CompleteRequest`` to the core's ``Request``. Total: nothing is ignored.

A value breaks a rule (INVALID_ARGUMENT), names what the strategy lacks (NOT_FOUND), asks for what
is not built (UNIMPLEMENTED), or is taken. Absent is not zero (R30); UNSPECIFIED is the default.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from escalade.v1 import completion_pb2, escalation_pb2
from escalade.v1.router_service_pb2 import CompleteRequest, RouteRequest
from escalade_server.api.content import content_of
from escalade_server.api.convert_messages import messages_from_proto
from escalade_server.api.convert_quality import wish_from_proto
from escalade_server.api.findings import (
    DURATION_MS_MAX,
    ID,
    JSON_DEPTH_MAX,
    NAME,
    TOOL_NAME,
    Findings,
    json_depth,
)
from escalade_server.core.catalog import Catalog, Layer
from escalade_server.core.failure import NEVER_MS
from escalade_server.core.session import Evidence, EvidenceKind
from escalade_server.core.task import (
    MICRO,
    Constraints,
    DataDemand,
    Delivery,
    Effort,
    FormatKind,
    OnInterruption,
    Request,
    ResponseFormat,
    Sampling,
    Task,
    Tool,
    ToolChoice,
    ToolMode,
)
from escalade_server.core.tracing import TraceContext

FILES_MAX = 10_000
TOKENS_MAX = 1_000_000_000
OUTPUT_TOKENS_MAX = 10_000_000
NANOS_MAX = 2**53
TOOLS_MAX = 128
STOPS_MAX = 4
EVIDENCE_MAX = 16
SIGNAL_CHARS_MAX = 256
NAMES_MAX = 64
SCHEMA_CHARS_MAX = 1_048_576
"""All schemas of one request together; bounds the time of checking them."""
FLUSH_MS_MAX = 10_000
NO_PARAMETERS = '{"type":"object","properties":{}}'

_C = completion_pb2
_DELIVERY: Mapping[int, Delivery] = {
    _C.DELIVERY_UNSPECIFIED: Delivery.STREAM,
    _C.DELIVERY_STREAM: Delivery.STREAM,
    _C.DELIVERY_WHOLE: Delivery.WHOLE,
}
_INTERRUPTION: Mapping[int, OnInterruption] = {
    _C.ON_INTERRUPTION_UNSPECIFIED: OnInterruption.RESTART,
    _C.ON_INTERRUPTION_RESTART: OnInterruption.RESTART,
    _C.ON_INTERRUPTION_FAIL: OnInterruption.FAIL,
}
_EFFORT: Mapping[int, Effort | None] = {
    _C.REASONING_EFFORT_UNSPECIFIED: None,
    _C.REASONING_EFFORT_NONE: Effort.NONE,
    _C.REASONING_EFFORT_LOW: Effort.LOW,
    _C.REASONING_EFFORT_MEDIUM: Effort.MEDIUM,
    _C.REASONING_EFFORT_HIGH: Effort.HIGH,
}
_TOOL_MODE: Mapping[int, ToolMode] = {
    _C.TOOL_MODE_UNSPECIFIED: ToolMode.AUTO,
    _C.TOOL_MODE_AUTO: ToolMode.AUTO,
    _C.TOOL_MODE_NONE: ToolMode.NONE,
    _C.TOOL_MODE_REQUIRED: ToolMode.REQUIRED,
}
_DEMANDS: Mapping[int, DataDemand] = {
    escalation_pb2.DATA_DEMAND_UNSPECIFIED: DataDemand.NONE,
    escalation_pb2.DATA_DEMAND_NO_TRAINING: DataDemand.NO_TRAINING,
    escalation_pb2.DATA_DEMAND_PRIVATE: DataDemand.PRIVATE,
}
_EVIDENCE: Mapping[int, EvidenceKind] = {
    getattr(escalation_pb2, f"EVIDENCE_KIND_{kind.name}"): kind for kind in EvidenceKind
}
NO_LIMITS, NO_TASK, NO_SAMPLING = Constraints(), Task(), Sampling()
FREE_CHOICE, PLAIN_TEXT = ToolChoice(), ResponseFormat()

_T = TypeVar("_T")
_Real = Literal["temperature", "top_p", "frequency_penalty", "presence_penalty"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the engine takes it, and what only the stream needs to know."""

    request: Request
    flush_ms: int


def request_from_proto(
    wire: CompleteRequest,
    catalog: Catalog,
    *,
    request_id: str,
    now_ms: int,
    left_ms: int | None,
    agent: str = "",
    trace: TraceContext | None = None,
) -> Asked:
    """Convert a request. ``request_id`` is used when the caller gives none.

    ``left_ms`` is what is left of the caller's deadline, less its margin (P9); None without one.

    Raises:
        RefusedError: with every finding.
    """
    found = Findings(closed_to(agent, catalog))
    has = wire.HasField  # an absent message is not looked into: most requests have few of them
    note_unbuilt(wire, found)
    work_ms, constraints = catalog.rules.work_ms, NO_LIMITS
    if has("constraints"):
        constraints = constraints_from_proto(wire.constraints, catalog, found)
        if wire.constraints.HasField("timeout"):
            timeout = wire.constraints.timeout
            work_ms = found.span_ms("constraints.timeout", timeout, 1, DURATION_MS_MAX)
    flush_ms = 0
    if has("flush_interval"):
        flush_ms = found.span_ms("flush_interval", wire.flush_interval, 0, FLUSH_MS_MAX)
    if wire.request_id:
        request_id = found.matches("request_id", wire.request_id, ID)
    output_max = None
    if has("max_output_tokens"):
        asked = wire.max_output_tokens
        output_max = found.whole("max_output_tokens", asked, 1, OUTPUT_TOKENS_MAX)  # C15
    shape = wire.response_format if has("response_format") else None
    form = PLAIN_TEXT if shape is None else _response_format(shape, found)
    request = Request(
        id=request_id,
        task=task_from_proto(wire.task, found) if has("task") else NO_TASK,
        messages=messages_from_proto(wire.messages, found),
        tools=_tools(wire, found) if wire.tools or shape is not None else (),
        tool_choice=_tool_choice(wire, found) if has("tool_choice") else FREE_CHOICE,
        response_format=form,
        sampling=_sampling(wire.sampling, found) if has("sampling") else NO_SAMPLING,
        effort=enum_from_proto("reasoning_effort", wire.reasoning_effort, _EFFORT, found),
        output_tokens_max=output_max,
        constraints=constraints,
        on_interruption=enum_from_proto(
            "on_interruption", wire.on_interruption, _INTERRUPTION, found
        ),
        delivery=enum_from_proto("delivery", wire.delivery, _DELIVERY, found),
        agent=agent,
        deadline_ms=now_ms + (work_ms if left_ms is None else min(work_ms, left_ms)),
        ends_ms=NEVER_MS if left_ms is None else now_ms + left_ms,
        quality=wish_from_proto(wire, form, found) if has("quality") else None,
        trace=trace,
        content=content_of(wire),
    )
    found.raise_any()
    return Asked(request, flush_ms)


def enum_from_proto(path: str, value: int, table: Mapping[int, _T], found: Findings) -> _T:
    """Look a value up; one that this server does not know yet is not built (P15)."""
    if value not in table:
        found.unbuilt(f"{path} = {value}")
        return table[0]
    return table[value]


def note_unbuilt(wire: CompleteRequest | RouteRequest, found: Findings) -> None:
    """Name what is asked for and not built; never ignore it (P15).

    A field of a later version is known by its number only: what it says, a limit perhaps, is not
    in effect here (C16).
    """
    asked: list[tuple[str, bool]] = []
    _note_unknown("", wire, found)
    if isinstance(wire, CompleteRequest):
        if wire.HasField("quality"):
            _note_unknown("quality.", wire.quality, found)
        if wire.HasField("sampling"):
            _note_unknown("sampling.", wire.sampling, found)
            asked.append(("sampling.top_k", wire.sampling.HasField("top_k")))
        if wire.task.dry_run:
            found.wrong("task.dry_run", "asks for a plan, and Complete does the work; ask Route")
    if wire.HasField("constraints"):
        _note_unknown("constraints.", wire.constraints, found)
    if wire.HasField("task"):
        _note_unknown("task.", wire.task, found)
    for name, is_asked in asked:
        if is_asked:
            found.unbuilt(name)


def _note_unknown(path: str, wire: Message, found: Findings) -> None:
    fields = UnknownFieldSet(wire)
    for at in range(len(fields)):
        found.unbuilt(f"{path}field {fields[at].field_number}")


def task_from_proto(wire: escalation_pb2.Task, found: Findings) -> Task:
    """Convert what a caller says of its task."""
    files: int | None = None
    if wire.HasField("file_count"):
        files = found.whole("task.file_count", wire.file_count, 0, FILES_MAX)
        if wire.files:
            found.wrong("task.file_count", "stands beside task.files; state one of them")
    elif wire.files:
        found.listed("task.files", len(wire.files), FILES_MAX)
        files = len(set(wire.files))
    tokens: int | None = None
    if wire.HasField("tokens"):
        tokens = found.whole("task.tokens", wire.tokens, 0, TOKENS_MAX)
    complexity_micro: int | None = None
    if wire.HasField("complexity"):
        points = found.real("task.complexity", wire.complexity, 0, 10)
        complexity_micro = round(points * MICRO) if 0 <= points <= 10 else None
    if wire.type:
        found.matches("task.type", wire.type, NAME)
    found.listed("task.capabilities", len(wire.capabilities), NAMES_MAX)
    for at, word in enumerate(wire.capabilities):
        found.matches(f"task.capabilities[{at}]", word, NAME)
    found.listed("task.labels", len(wire.labels), NAMES_MAX)
    for key, value in wire.labels.items():
        if not NAME.fullmatch(key):
            found.wrong("task.labels", f"has a key that does not match {NAME.pattern}")
        elif len(value) > 256 or not value.isprintable():
            found.wrong(f"task.labels[{key}]", "must be printable, at most 256 characters")
    return Task(
        type=wire.type,
        files=files,
        tokens=tokens,
        complexity_micro=complexity_micro,
        capabilities=tuple(wire.capabilities),
        labels=tuple(sorted(wire.labels.items())),
        session_id=found.matches("task.session_id", wire.session_id, ID) if wire.session_id else "",
        data_demand=enum_from_proto("task.data_demand", wire.data_demand, _DEMANDS, found),
        evidence=_evidence(wire, found) if wire.evidence else (),
    )


def _evidence(wire: escalation_pb2.Task, found: Findings) -> tuple[Evidence, ...]:
    """Convert signs of struggle; they are of a session, and never quoted anywhere."""
    if not wire.session_id:
        found.wrong("task.evidence", "is of a session; name it in task.session_id")
    found.listed("task.evidence", len(wire.evidence), EVIDENCE_MAX)
    signs = []
    for at, sign in enumerate(wire.evidence[:EVIDENCE_MAX]):
        path = f"task.evidence[{at}]"
        if sign.kind == escalation_pb2.EVIDENCE_KIND_UNSPECIFIED:
            found.wrong(f"{path}.kind", "is not set")
            continue
        if len(sign.signal_id) > SIGNAL_CHARS_MAX:
            found.wrong(f"{path}.signal_id", f"has more than {SIGNAL_CHARS_MAX} characters")
        if sign.kind in _EVIDENCE:
            signs.append(Evidence(_EVIDENCE[sign.kind], sign.signal_id))
        else:
            found.unbuilt(f"{path}.kind = {sign.kind}")
    return tuple(signs)


def closed_to(agent: str, catalog: Catalog) -> frozenset[str]:
    """Answer the models that an agent may not use, by key."""
    own = catalog.agents.get(agent)
    return frozenset() if own is None else own.forbidden


def _layer(path: str, name: str, catalog: Catalog, found: Findings) -> int | None:
    if not name:
        return None
    layers: Iterable[Layer] = catalog.layers
    if found.closed:
        layers = [each for each in layers if any(m.key not in found.closed for m in each.models)]
    for layer in layers:
        if layer.name == name:
            return layer.index
    if NAME.fullmatch(found.matches(path, name, NAME)):
        known = ", ".join(layer.name for layer in layers)
        found.unknown(path, f"names no layer that is open to you; there are {known}")
    return None


def _models(path: str, names: tuple[str, ...], catalog: Catalog, found: Findings) -> None:
    if not names:
        return
    found.listed(path, len(names), NAMES_MAX)
    models = [m for m in catalog.models if m.key not in found.closed]
    known = {n for m in models for n in (m.id, f"{m.provider}/{m.id}", m.key)}
    for at, name in enumerate(names[:NAMES_MAX]):
        if name not in known and NAME.fullmatch(found.matches(f"{path}[{at}]", name, NAME)):
            found.unknown(f"{path}[{at}]", "names no model that is open to you")


def constraints_from_proto(
    wire: escalation_pb2.Constraints, catalog: Catalog, found: Findings
) -> Constraints:
    """Convert the limits of one task; every name must be of the strategy, and the caller's."""
    lowest = _layer("constraints.lowest_layer", wire.lowest_layer, catalog, found)
    highest = _layer("constraints.highest_layer", wire.highest_layer, catalog, found)
    if lowest is not None and highest is not None and lowest > highest:
        found.wrong("constraints.lowest_layer", "is above constraints.highest_layer")
    allowed, denied = tuple(wire.allowed_models), tuple(wire.denied_models)
    _models("constraints.allowed_models", allowed, catalog, found)
    _models("constraints.denied_models", denied, catalog, found)
    consented = tuple(wire.consented_layers)
    found.listed("constraints.consented_layers", len(consented), NAMES_MAX)
    for at, name in enumerate(consented[:NAMES_MAX]):
        if name != "*":
            _layer(f"constraints.consented_layers[{at}]", name or "?", catalog, found)
    spend: int | None = None
    if wire.HasField("spend_limit_nano_usd"):
        asked = wire.spend_limit_nano_usd
        spend = found.whole("constraints.spend_limit_nano_usd", asked, 0, NANOS_MAX)
    max_wait_ms: int | None = None
    if wire.HasField("max_wait"):
        longest = wire.max_wait
        max_wait_ms = found.span_ms("constraints.max_wait", longest, 0, DURATION_MS_MAX)
    return Constraints(
        lowest_layer=wire.lowest_layer,
        highest_layer=wire.highest_layer,
        allowed_models=allowed,
        denied_models=denied,
        spend_limit_nanos=spend,
        free_only=wire.free_only,
        may_downgrade=wire.may_downgrade if wire.HasField("may_downgrade") else None,
        may_wait=wire.may_wait if wire.HasField("may_wait") else None,
        max_wait_ms=max_wait_ms,
        consented_layers=consented,
    )


def _schema(path: str, text: str, found: Findings) -> str:
    """Check that a text is a JSON object of bounded depth."""
    if json_depth(text) > JSON_DEPTH_MAX:
        found.wrong(path, f"is nested deeper than {JSON_DEPTH_MAX} levels")
        return text
    try:
        made = msgspec.json.decode(text)
    except msgspec.DecodeError:
        found.wrong(path, "is not JSON")
        return text
    if not isinstance(made, dict):
        found.wrong(path, "is not a JSON object")
    return text


def _tools(wire: CompleteRequest, found: Findings) -> tuple[Tool, ...]:
    if len(wire.tools) > TOOLS_MAX:
        found.listed("tools", len(wire.tools), TOOLS_MAX)
        return ()
    size = len(wire.response_format.json_schema.schema_json)
    size += sum(len(tool.parameters_json_schema) for tool in wire.tools)
    if size > SCHEMA_CHARS_MAX:
        found.wrong("tools", f"hold {size:,} characters of schemas; {SCHEMA_CHARS_MAX:,} at most")
        return ()
    names: set[str] = set()
    tools: list[Tool] = []
    for at, tool in enumerate(wire.tools):
        path = f"tools[{at}]"
        name = found.matches(f"{path}.name", tool.name, TOOL_NAME)
        if name in names:
            found.wrong(f"{path}.name", "is the name of an earlier tool")
        names.add(name)
        schema = tool.parameters_json_schema or NO_PARAMETERS
        _schema(f"{path}.parameters_json_schema", schema, found)
        tools.append(Tool(name, tool.description, schema))
    return tuple(tools)


def _tool_choice(wire: CompleteRequest, found: Findings) -> ToolChoice:
    choice = wire.tool_choice
    if choice.WhichOneof("kind") == "tool_name":
        if all(tool.name != choice.tool_name for tool in wire.tools):
            found.wrong("tool_choice.tool_name", "names none of the tools")
        return ToolChoice(ToolMode.NAMED, choice.tool_name)
    mode = enum_from_proto("tool_choice.mode", choice.mode, _TOOL_MODE, found)
    if mode is ToolMode.REQUIRED and not wire.tools:
        found.wrong("tool_choice.mode", "demands a call, and there are no tools")
    return ToolChoice(mode)


def _response_format(wire: completion_pb2.ResponseFormat, found: Findings) -> ResponseFormat:
    match wire.WhichOneof("kind"):
        case None | "text":
            return ResponseFormat()
        case "json":
            return ResponseFormat(FormatKind.JSON)
        case "json_schema":
            schema = wire.json_schema
            name = schema.name or "answer"
            found.matches("response_format.json_schema.name", name, TOOL_NAME)
            _schema("response_format.json_schema.schema_json", schema.schema_json, found)
            return ResponseFormat(FormatKind.JSON_SCHEMA, name, schema.schema_json)


def _sampling(wire: completion_pb2.Sampling, found: Findings) -> Sampling:
    def real(name: _Real, value: float, low: float, high: float) -> float | None:
        return found.real(f"sampling.{name}", value, low, high) if wire.HasField(name) else None

    found.listed("sampling.stop", len(wire.stop), STOPS_MAX)
    for at, text in enumerate(wire.stop):
        if not 0 < len(text) <= 256:
            found.wrong(f"sampling.stop[{at}]", "must have 1 to 256 characters")
    return Sampling(
        temperature=real("temperature", wire.temperature, 0, 2),
        top_p=real("top_p", wire.top_p, 0, 1),
        seed=wire.seed if wire.HasField("seed") else None,
        stop=tuple(wire.stop),
        frequency_penalty=real("frequency_penalty", wire.frequency_penalty, -2, 2),
        presence_penalty=real("presence_penalty", wire.presence_penalty, -2, 2),
    )
