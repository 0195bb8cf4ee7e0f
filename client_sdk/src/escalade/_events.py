"""What a stream tells, each event readable as one line, and the answer at its end."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from escalade._errors import EscaladeError
from escalade._proto import instant_of, name_of, one_line, usd_of
from escalade._record import (
    Attempt,
    Model,
    Skip,
    Usage,
    attempt_from_proto,
    model_from_proto,
    skip_from_proto,
    usage_from_proto,
)
from escalade._types import Message, Reasoning, ToolCall
from escalade.v1 import completion_pb2, error_pb2, escalation_pb2


def _why(reason: str, detail: str) -> str:
    return ": ".join(word for word in (reason, one_line(detail)) if word)


@dataclass(frozen=True, slots=True)
class Assessed:
    """How complex the task is and where it starts.

    Attributes:
        score: 0 to 10.
        threshold: Above it, strictly, a task jumps; None without one.
        task_type: The type that was used.
        target_layer: The layer by score alone.
        start_layer: The layer in which the task starts.
        clamped_by: What moved the start, such as FREE_ONLY; empty if nothing did.
        complexity_stated: The caller stated the complexity.
        estimated: What was estimated from the messages: type, tokens, complexity.
        estimate_reason: How, for people.
        files_points: Points for affected files.
        depth_points: Points for the reasoning depth of the type.
        context_points: Points for the context.
        raised_by: By how many layers signs of struggle in the session raised the start.
        session_note: What the session did to the start, in words; empty if nothing.
    """

    score: float
    threshold: float | None
    task_type: str
    target_layer: str
    start_layer: str
    clamped_by: str
    complexity_stated: bool
    estimated: tuple[str, ...]
    estimate_reason: str
    files_points: float
    depth_points: float
    context_points: float
    raised_by: int = 0
    session_note: str = ""

    def __str__(self) -> str:
        guess = f" ({', '.join(self.estimated)} estimated)" if self.estimated else ""
        clamp = f" ({self.clamped_by})" if self.clamped_by else ""
        note = f" ({self.session_note})" if self.session_note else ""
        return (
            f"Assessed: {self.task_type} scores {round(self.score, 2):g}{guess},"
            f" starts in {self.start_layer}{clamp}{note}"
        )


@dataclass(frozen=True, slots=True)
class Selected:
    """Which model is called next, what was passed over, and which gates hold the text back.

    Attributes:
        attempt: The number of the attempt.
        model: The model.
        wire_model: The model as its provider knows it.
        dialect: The wire protocol of its provider.
        held_by: The gates that hold the text back until they have decided.
        skips: What was passed over on the way to this model.
        reservation_id: Its reservation in the ledger.
        expires: When the lease of the reservation ends; counts for `route()`.
        max_input_tokens: The input that is granted; caps are kept for callers inside the grant.
        max_output_tokens: The output that is granted, reasoning included.
    """

    attempt: int
    model: Model
    wire_model: str
    dialect: str
    held_by: tuple[str, ...]
    skips: tuple[Skip, ...]
    reservation_id: str = ""
    expires: datetime | None = None
    max_input_tokens: int = 0
    max_output_tokens: int = 0

    def __str__(self) -> str:
        held = f"; held back by {', '.join(self.held_by)}" if self.held_by else ""
        skips = f"; {len(self.skips)} passed over" if self.skips else ""
        return f"Selected: {self.model} in {self.model.layer}{skips}{held}"


@dataclass(frozen=True, slots=True)
class Fallback:
    """Another model of the same layer takes over after a failed attempt."""

    failed_attempt: int
    from_model: Model
    to_model: Model
    failure_class: str
    detail: str

    def __str__(self) -> str:
        why = _why(self.failure_class, self.detail)
        return f"Fallback: {self.from_model} → {self.to_model} ({why})"


@dataclass(frozen=True, slots=True)
class Escalated:
    """The layer changes. `kind` is INITIAL, FAILURE or DOWNGRADE; `reason` is a closed word."""

    from_layer: str
    to_layer: str
    reason: str
    detail: str
    kind: str
    failed_attempt: int | None

    def __str__(self) -> str:
        return f"Escalated: {self.from_layer} → {self.to_layer} ({_why(self.reason, self.detail)})"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The task waits for capacity, at the earliest until `earliest`. Told again every 15 s.

    `resume_token` keeps the place for 120 s if the stream breaks: pass it on with the same
    content.
    """

    reason: str
    detail: str
    earliest: datetime | None
    rule: str
    position: int
    resume_token: str

    def __str__(self) -> str:
        until = f" until {self.earliest:%Y-%m-%d %H:%M:%S} UTC" if self.earliest else ""
        return f"Waiting{until}, place {self.position} ({_why(self.reason, self.detail)})"


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The stream broke before the first piece of the answer, and was asked for again (P8).

    What was announced before stays true of the stream that broke, which is over. The service
    starts anew under the same request id; nothing is charged for an answer twice. What the new
    stream announces alike and in the same order is not told again.

    Attributes:
        tries: How often the stream was asked for again so far, in vain or not.
        cause: What broke it.
        resumed: A resume token kept the place in the queue.
    """

    tries: int
    cause: EscaladeError
    resumed: bool

    def __str__(self) -> str:
        place = "; the place in the queue is kept" if self.resumed else ""
        return f"Reconnected: {one_line(self.cause.message)}{place}"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    attempt: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's visible reasoning."""

    attempt: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Retracted:
    """All text and reasoning of an attempt is void; another model starts over."""

    attempt: int
    reason: str
    detail: str

    def __str__(self) -> str:
        why = _why(self.reason, self.detail)
        return f"Retracted: the text of attempt {self.attempt} is void ({why})"


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should know."""

    kind: str
    model: Model | None
    detail: str
    percent: int | None

    def __str__(self) -> str:
        return f"Alert: {_why(self.kind, self.detail)}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer and the record of the way to it.

    Attributes:
        message: The answer; append it to the messages of the next step as it is.
        finish_reason: STOP, LENGTH, TOOL_CALLS, CONTENT_FILTER or REFUSAL.
        finish_detail: The vendor's category of a refusal or filter.
        quality: MET, or UNMET if it was delivered although it failed a gate.
        replayed: It was given before to the same request id; nothing is charged for it.
        escalations: Every change of layer that this call announced, in order.
        report: The whole record, as the wire has it.
    """

    message: Message
    finish_reason: str
    finish_detail: str
    quality: str
    replayed: bool
    escalations: tuple[Escalated, ...]
    report: escalation_pb2.Report

    @property
    def text(self) -> str:
        """The text."""
        return self.message.text

    @property
    def reasoning(self) -> str:
        """The visible reasoning."""
        return "".join(part.text for part in self.message.parts if isinstance(part, Reasoning))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the model wishes to call."""
        return tuple(part for part in self.message.parts if isinstance(part, ToolCall))

    @property
    def model(self) -> str:
        """The model that answered, as the strategy names it."""
        return self.report.answered.model

    @property
    def provider(self) -> str:
        """The provider of that model."""
        return self.report.answered.provider

    @property
    def layer(self) -> str:
        """The layer that answered."""
        return self.report.answered.layer

    @property
    def cost_nanos(self) -> int:
        """What all attempts are charged, in nano-dollars; free and subscription cost 0 (R15)."""
        return self.report.cost.charged_nano_usd

    @property
    def cost_usd(self) -> Decimal:
        """What all attempts are charged, in dollars."""
        return usd_of(self.cost_nanos)

    @property
    def list_nanos(self) -> int:
        """The value of all attempts at list price, in nano-dollars, charged or not."""
        return self.report.cost.list_nano_usd

    @property
    def list_usd(self) -> Decimal:
        """The value of all attempts at list price, in dollars."""
        return usd_of(self.list_nanos)

    @property
    def usage(self) -> Usage:
        """The tokens of all attempts."""
        return usage_from_proto(self.report.usage)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt, in order."""
        return tuple(attempt_from_proto(attempt) for attempt in self.report.attempts)

    @property
    def story(self) -> str:
        """The task in one sentence."""
        return self.report.story

    @property
    def request_id(self) -> str:
        """The id of the request."""
        return self.report.request_id

    @property
    def trace_id(self) -> str:
        """The id of the trace, in hexadecimal; empty without one."""
        return self.report.trace_id

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Finished:
    """The task ends with an answer, whose settlement is durable."""

    answer: Answer

    def __str__(self) -> str:
        return f"Finished: {one_line(self.answer.story) or self.answer.finish_reason}"


@dataclass(frozen=True, slots=True)
class Failed:
    """The task ends without an answer; the stream then raises the error of this reason."""

    reason: str
    message: str
    failure_class: str
    report: escalation_pb2.Report

    def __str__(self) -> str:
        return f"Failed: {_why(self.reason, self.message)}"


Announcement = (
    Assessed
    | Selected
    | Fallback
    | Escalated
    | Waiting
    | Reconnected
    | Retracted
    | Alert
    | Finished
    | Failed
)
Event = Announcement | TextDelta | ReasoningDelta


def assessed_from_proto(event: escalation_pb2.Assessed) -> Assessed:
    """Read the assessment."""
    guesses: tuple[tuple[bool, Literal["type", "tokens", "complexity"]], ...] = (
        (event.type_estimated, "type"),
        (event.tokens_estimated, "tokens"),
        (event.complexity_estimated, "complexity"),
    )
    return Assessed(
        score=event.score,
        threshold=event.threshold if event.HasField("threshold") else None,
        task_type=event.task_type,
        target_layer=event.target_layer,
        start_layer=event.start_layer,
        clamped_by=name_of(escalation_pb2.StartClamp.DESCRIPTOR, event.clamped_by),
        complexity_stated=event.complexity_stated,
        estimated=tuple(word for guessed, word in guesses if guessed),
        estimate_reason=event.estimate_reason,
        files_points=event.parts.files,
        depth_points=event.parts.depth,
        context_points=event.parts.context,
        raised_by=event.raised_by,
        session_note=event.session_note,
    )


def announcement_from_proto(event: escalation_pb2.Event) -> Announcement | None:
    """Read an announcement; None for deltas, Finished, and kinds of a newer server."""
    match event.WhichOneof("kind"):
        case "assessed":
            return assessed_from_proto(event.assessed)
        case "selected":
            selected = event.selected
            return Selected(
                attempt=selected.attempt,
                model=model_from_proto(selected.target),
                wire_model=selected.wire_model,
                dialect=selected.dialect,
                held_by=tuple(
                    name_of(completion_pb2.Gate.DESCRIPTOR, gate) for gate in selected.held_by
                ),
                skips=tuple(skip_from_proto(skip) for skip in selected.skips),
                reservation_id=selected.reservation_id,
                expires=instant_of(selected.expires) if selected.HasField("expires") else None,
                max_input_tokens=selected.max_input_tokens,
                max_output_tokens=selected.max_output_tokens,
            )
        case "fallback":
            fallback = event.fallback
            return Fallback(
                failed_attempt=fallback.failed_attempt,
                from_model=model_from_proto(fallback.from_target),
                to_model=model_from_proto(fallback.to_target),
                failure_class=name_of(error_pb2.FailureClass.DESCRIPTOR, fallback.failure_class),
                detail=fallback.detail,
            )
        case "escalated":
            return escalated_from_proto(event.escalated)
        case "waiting":
            return waiting_from_proto(event.waiting)
        case "retracted":
            retracted = event.retracted
            reason = name_of(error_pb2.FailureClass.DESCRIPTOR, retracted.reason)
            return Retracted(retracted.attempt, reason, retracted.detail)
        case "alert":
            alert = event.alert
            return Alert(
                kind=name_of(escalation_pb2.AlertKind.DESCRIPTOR, alert.kind),
                model=model_from_proto(alert.target) if alert.HasField("target") else None,
                detail=alert.detail,
                percent=alert.percent if alert.HasField("percent") else None,
            )
        case "failed":
            failed = event.failed
            return Failed(
                reason=name_of(error_pb2.ErrorReason.DESCRIPTOR, failed.reason),
                message=failed.message,
                failure_class=name_of(error_pb2.FailureClass.DESCRIPTOR, failed.failure_class),
                report=failed.report,
            )
        case _:
            return None


def escalated_from_proto(event: escalation_pb2.Escalated) -> Escalated:
    """Read a change of layer."""
    return Escalated(
        from_layer=event.from_layer,
        to_layer=event.to_layer,
        reason=name_of(escalation_pb2.EscalationReason.DESCRIPTOR, event.reason),
        detail=event.detail,
        kind=name_of(escalation_pb2.EscalationKind.DESCRIPTOR, event.kind),
        failed_attempt=event.failed_attempt if event.HasField("failed_attempt") else None,
    )


def waiting_from_proto(event: escalation_pb2.Waiting) -> Waiting:
    """Read a wait."""
    return Waiting(
        reason=name_of(escalation_pb2.VerdictClass.DESCRIPTOR, event.reason),
        detail=event.detail,
        earliest=instant_of(event.earliest) if event.HasField("earliest") else None,
        rule=event.rule,
        position=event.position,
        resume_token=event.resume_token,
    )
