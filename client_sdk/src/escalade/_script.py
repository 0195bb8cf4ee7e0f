"""What a scripted service can do: the steps of a reply, and events to put in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from escalade.v1 import completion_pb2, error_pb2, escalation_pb2


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing happens for this time, or until the caller leaves."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The call ends with the status of this reason and its details, without an event.

    As the first step it stands for a call that the service never accepted.
    """

    reason: str
    message: str = ""
    retry_after: timedelta | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cut:
    """The call ends with a bare status, as when the connection breaks, or a proxy speaks.

    As the first step it stands for a server that is not there; after an event, or a `Pause`, for
    one that goes away. `cut_by_proxy` makes the kind that proxies make.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    message: str = "cut by the script"


Step = escalation_pb2.Event | Pause | Refused | Cut
Reply = Sequence[Step]


def assessed(
    score: float = 3.0, *, task_type: str = "debug", layer: str = "free"
) -> escalation_pb2.Event:
    """Announce the score of the task and the layer in which it starts."""
    made = escalation_pb2.Assessed(
        score=score, task_type=task_type, target_layer=layer, start_layer=layer
    )
    return escalation_pb2.Event(assessed=made)


def selected(
    model: str = "gpt-4o-mini",
    *,
    provider: str = "openai",
    layer: str = "free",
    attempt: int = 1,
    dialect: str = "openai",
    lease: timedelta = timedelta(minutes=10),
) -> escalation_pb2.Event:
    """Announce the model that is called next; its reservation is named after the attempt."""
    expires = Timestamp()
    expires.FromDatetime(datetime.now(UTC) + lease)
    made = escalation_pb2.Selected(
        attempt=attempt,
        target=escalation_pb2.ModelRef(
            layer=layer, provider=provider, model=model, account="default"
        ),
        wire_model=model,
        dialect=dialect,
        reservation_id=f"reservation-{attempt}",
        expires=expires,
        max_input_tokens=4_000,
        max_output_tokens=500,
    )
    return escalation_pb2.Event(selected=made)


def escalated(
    from_layer: str, to_layer: str, reason: str = "RATE_LIMIT", detail: str = ""
) -> escalation_pb2.Event:
    """Announce a change of layer; `reason` is a name of EscalationReason without its prefix."""
    made = escalation_pb2.Escalated(
        from_layer=from_layer,
        to_layer=to_layer,
        reason=escalation_pb2.EscalationReason.Value(f"ESCALATION_REASON_{reason}"),
        detail=detail,
        kind=escalation_pb2.ESCALATION_KIND_FAILURE,
    )
    return escalation_pb2.Event(escalated=made)


def fallback(
    from_model: str = "gpt-4o-mini",
    to_model: str = "claude-haiku",
    *,
    failure_class: str = "OUTAGE",
    failed_attempt: int = 1,
    layer: str = "free",
) -> escalation_pb2.Event:
    """Announce the next model of the layer; `failure_class` is a name without its prefix."""
    made = escalation_pb2.Fallback(
        failed_attempt=failed_attempt,
        from_target=escalation_pb2.ModelRef(layer=layer, provider="scripted", model=from_model),
        to_target=escalation_pb2.ModelRef(layer=layer, provider="scripted", model=to_model),
        failure_class=error_pb2.FailureClass.Value(f"FAILURE_CLASS_{failure_class}"),
    )
    return escalation_pb2.Event(fallback=made)


def waiting(
    resume_token: str = "",
    *,
    position: int = 1,
    earliest: datetime | None = None,
    reason: str = "RATE",
) -> escalation_pb2.Event:
    """Announce a wait; `reason` is a name of VerdictClass without its prefix."""
    until = None
    if earliest is not None:
        until = Timestamp()
        until.FromDatetime(earliest)
    made = escalation_pb2.Waiting(
        reason=escalation_pb2.VerdictClass.Value(f"VERDICT_CLASS_{reason}"),
        earliest=until,
        position=position,
        resume_token=resume_token,
    )
    return escalation_pb2.Event(waiting=made)


def reasoning(piece: str, *, attempt: int = 1) -> escalation_pb2.Event:
    """Send a piece of visible reasoning."""
    return escalation_pb2.Event(delta=completion_pb2.Delta(attempt=attempt, reasoning=piece))


def text(piece: str, *, attempt: int = 1) -> escalation_pb2.Event:
    """Send a piece of text."""
    return escalation_pb2.Event(delta=completion_pb2.Delta(attempt=attempt, text=piece))


def tool_call(
    name: str,
    arguments_json: str = "{}",
    *,
    call_id: str = "call-1",
    index: int = 0,
    attempt: int = 1,
) -> escalation_pb2.Event:
    """Send a tool call, whole."""
    made = completion_pb2.ToolCallDelta(
        index=index, id=call_id, name=name, arguments_json_fragment=arguments_json
    )
    return escalation_pb2.Event(delta=completion_pb2.Delta(attempt=attempt, tool_call=made))


def retracted(attempt: int = 1, reason: str = "OUTAGE", detail: str = "") -> escalation_pb2.Event:
    """Void an attempt; `reason` is a name of FailureClass without its prefix."""
    made = escalation_pb2.Retracted(
        attempt=attempt,
        reason=error_pb2.FailureClass.Value(f"FAILURE_CLASS_{reason}"),
        detail=detail,
    )
    return escalation_pb2.Event(retracted=made)


def finished(
    model: str = "gpt-4o-mini",
    *,
    provider: str = "openai",
    layer: str = "free",
    finish_reason: str = "STOP",
    cost_nanos: int = 0,
    story: str = "",
    attempt: int = 1,
) -> escalation_pb2.Event:
    """End with an answer; its report names one attempt, which `model` answered."""
    target = escalation_pb2.ModelRef(layer=layer, provider=provider, model=model)
    reason = completion_pb2.FinishReason.Value(f"FINISH_REASON_{finish_reason}")
    cost = completion_pb2.Cost(list_nano_usd=cost_nanos, charged_nano_usd=cost_nanos)
    made = escalation_pb2.Attempt(
        attempt=attempt,
        target=target,
        status=escalation_pb2.ATTEMPT_STATUS_OK,
        finish_reason=reason,
        cost=cost,
        basis=completion_pb2.BASIS_REPORTED,
    )
    report = escalation_pb2.Report(
        answered=target, layer_path=[layer], cost=cost, attempts=[made], story=story
    )
    end = escalation_pb2.Finished(
        finish_reason=reason, quality=escalation_pb2.QUALITY_MET, report=report
    )
    return escalation_pb2.Event(finished=end)


def failed(
    reason: str, message: str = "", *, report: escalation_pb2.Report | None = None
) -> escalation_pb2.Event:
    """End without an answer; the status of this reason follows by itself."""
    made = escalation_pb2.Failed(
        reason=error_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}"),
        message=message,
        report=report,
    )
    return escalation_pb2.Event(failed=made)


def answer(
    *pieces: str,
    model: str = "gpt-4o-mini",
    provider: str = "openai",
    layer: str = "free",
    cost_nanos: int = 0,
) -> Reply:
    """Reply with a text, in these pieces."""
    return [
        selected(model, provider=provider, layer=layer),
        *(text(piece) for piece in pieces),
        finished(model, provider=provider, layer=layer, cost_nanos=cost_nanos),
    ]


def slowly(reply: Reply, seconds: float = 0.05) -> Reply:
    """Put a pause before every step of a reply, the first one too."""
    return [step for after in reply for step in (Pause(seconds), after)]


def cut_by_proxy() -> Cut:
    """Cut the call as a proxy with a route timeout does; put a `Pause` before it."""
    return Cut(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2")
