"""Demands on quality from the wire (R21): bounded, since each is asked of every answer."""

from collections.abc import Mapping

from escalade.v1 import completion_pb2
from escalade.v1.router_service_pb2 import CompleteRequest
from escalade_server.api import convert_out
from escalade_server.api.findings import Findings
from escalade_server.core.gates import Demands, Gate, OnUnmet, Wish
from escalade_server.core.task import FormatKind, ResponseFormat

LITERALS_MAX = 32
LITERAL_CHARS_MAX = 1_000
LENGTH_MAX = 1_000_000
ESCALATIONS_MAX = 100

_C = completion_pb2
GATES: Mapping[int, Gate] = {value: gate for gate, value in convert_out.GATES.items()}
_UNMET: Mapping[int, OnUnmet | None] = {
    _C.ON_UNMET_UNSPECIFIED: None,
    _C.ON_UNMET_FAIL: OnUnmet.FAIL,
    _C.ON_UNMET_DELIVER: OnUnmet.DELIVER,
}


def wish_from_proto(wire: CompleteRequest, shape: ResponseFormat, found: Findings) -> Wish:
    """Convert what a request asks of its answer, beyond its strategy."""
    asked = wire.quality
    literals = tuple(asked.must_contain)
    found.listed("quality.must_contain", len(literals), LITERALS_MAX)
    for at, literal in enumerate(literals[:LITERALS_MAX]):
        if not 0 < len(literal) <= LITERAL_CHARS_MAX:
            what = f"must have 1 to {LITERAL_CHARS_MAX} characters"
            found.wrong(f"quality.must_contain[{at}]", what)
    shortest = most = None
    if asked.HasField("min_length_chars"):
        path = "quality.min_length_chars"
        shortest = found.whole(path, asked.min_length_chars, 0, LENGTH_MAX)
    if asked.HasField("max_escalations"):
        most = found.whole("quality.max_escalations", asked.max_escalations, 0, ESCALATIONS_MAX)
    gates = _gates(asked, shape, found)
    if literals:
        gates.add(Gate.PATTERN)
    if shortest:
        gates.add(Gate.TOO_SHORT)
    if asked.on_unmet not in _UNMET:
        found.unbuilt(f"quality.on_unmet = {asked.on_unmet}")
    demands = Demands(frozenset(gates), shortest or 0, (), literals)
    return Wish(demands, most, _UNMET.get(asked.on_unmet))


def _gates(asked: _C.QualityDemands, shape: ResponseFormat, found: Findings) -> set[Gate]:
    """Take the gates by name; one that asks for nothing is a mistake, and told."""
    found.listed("quality.gates", len(asked.gates), len(GATES))
    missing = {
        Gate.INVALID_JSON: shape.kind is FormatKind.TEXT and "response_format json or json_schema",
        Gate.JSON_SCHEMA: shape.kind is not FormatKind.JSON_SCHEMA
        and "response_format.json_schema",
        Gate.TOO_SHORT: not asked.HasField("min_length_chars") and "quality.min_length_chars",
        Gate.PATTERN: not asked.must_contain and "quality.must_contain",
    }
    gates = set[Gate]()
    for at, value in enumerate(asked.gates[: len(GATES)]):
        path, gate = f"quality.gates[{at}]", GATES.get(value)
        lacks = missing.get(gate, False) if gate else False
        if gate is not None:
            gates.add(gate)
        elif value == _C.GATE_UNSPECIFIED:
            found.wrong(path, "is not set")
        else:
            found.unbuilt(f"{path} = {value}")
        if gate is Gate.REFUSAL:  # a caller cannot launder a refusal (guarantee 6)
            found.wrong(path, "is REFUSAL, which only the strategy may ask for")
        elif lacks:
            found.wrong(path, f"asks for nothing without {lacks}")
    return gates
