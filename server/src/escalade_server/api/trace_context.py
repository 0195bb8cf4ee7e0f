"""The caller's trace, from gRPC metadata (W3C Trace Context, level 2). Malformed is none at all."""

import re
from collections.abc import Iterable

from escalade_server.core.tracing import TraceContext

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
MEMBERS_MAX = 32
STATE_CHARS_MAX = 512
_SAMPLED = 0x01


def trace_of(metadata: "Iterable[tuple[str, str | bytes]] | None") -> TraceContext | None:
    """Read the context that a call belongs to; None begins a fresh trace.

    A vendors' list that breaks the rules is dropped alone; it never costs the trace.
    """
    found = [value for key, value in metadata or () if key == "traceparent"]
    if len(found) != 1:
        return None
    match = _PARENT.fullmatch(str(found[0]).strip(" \t"))
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16):
        return None
    if not int(span_id, 16):
        return None
    listed = ",".join(str(value) for key, value in metadata or () if key == "tracestate")
    sampled = bool(int(flags, 16) & _SAMPLED)
    return TraceContext(trace_id, span_id, sampled, _state(listed) if listed else "")


def _state(listed: str) -> str:
    members = [each.strip(" \t") for each in listed.split(",")]
    members = [each for each in members if each]
    keys = [each.partition("=")[0] for each in members]
    good = len(members) <= MEMBERS_MAX and len(set(keys)) == len(keys)
    if not good or not all(map(_MEMBER.fullmatch, members)):
        return ""
    told = ",".join(members)
    return told if len(told) <= STATE_CHARS_MAX else ""
