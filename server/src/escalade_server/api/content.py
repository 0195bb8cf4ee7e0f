"""What a request asks for, as one hash: how a repeated request id is told from a misused one (R27).

How the answer travels, by when, and whose place in the queue is taken up does not count: the same
request may come again as a stream, with a longer deadline, or after a break.
"""

import hashlib

from google.protobuf.message import Message

from escalade.v1.escalation_pb2 import Constraints
from escalade.v1.router_service_pb2 import CompleteRequest, RouteRequest

_COMPLETE = (
    "constraints", "delivery", "flush_interval", "on_interruption", "request_id", "resume_token",
)  # fmt: skip
_ROUTE = ("constraints", "request_id", "resume_token")


def content_of(wire: CompleteRequest | RouteRequest) -> str:
    """Hash a request under its caller's own id; empty if the caller gave none."""
    if not wire.request_id:
        return ""
    limits = Constraints()
    limits.CopyFrom(wire.constraints)
    limits.ClearField("timeout")
    asked: Message = type(wire)()
    asked.CopyFrom(wire)
    for name in _COMPLETE if isinstance(wire, CompleteRequest) else _ROUTE:
        asked.ClearField(name)
    within = limits.SerializeToString(deterministic=True)
    said = hashlib.sha256(f"{asked.DESCRIPTOR.name} {len(within)} ".encode() + within)
    said.update(asked.SerializeToString(deterministic=True))
    return said.hexdigest()[:32]
