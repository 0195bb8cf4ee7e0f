"""Attributes of spans, made of the record. Names are in ``conventions``; None is left out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from escalade_server.core.catalog import Model
from escalade_server.core.facts import (
    Assessed,
    ErrorReason,
    Escalated,
    Failed,
    Fallback,
    Finished,
    Outcome,
    Selected,
    Waiting,
)
from escalade_server.core.task import MICRO, DataDemand, Delivery, FormatKind, Request
from escalade_server.core.trace import AttemptRecord, AttemptStatus, Skip
from escalade_server.telemetry import content
from escalade_server.telemetry import conventions as c
from escalade_server.telemetry.content import NO_CAPTURE, Capture

Value: TypeAlias = str | int | float | bool | tuple[str, ...]
Attribute: TypeAlias = tuple[str, Value]

SKIPS_MAX = 32
"""Models passed over that are named with one choice."""
NAME_MAX = 200
"""Characters of a name that a provider chose."""
TEXT_MAX = 2_000
"""Characters of one text; the rest is cut."""


def nowhere(_model: Model) -> tuple[str, int] | None:
    """Know no address of any model."""
    return None


def unknown(_reason: ErrorReason) -> str:
    """Know no status of any reason."""
    return "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What spans tell that no record knows: ``api``'s statuses, ``providers``' addresses."""

    status_of: Callable[[ErrorReason], str] = unknown
    """The gRPC status of a failure, by its name."""
    address_of: Callable[[Model], tuple[str, int] | None] = nowhere
    """Host and port at which a model is called."""
    redact: Callable[[str], str] = str
    """Takes the secrets out of others' words."""
    capture: Capture = NO_CAPTURE
    """Whose messages are told."""

    def text(self, value: str) -> str:
        """Make words of others fit to be told: no secrets, not too long, nothing no proto holds."""
        value = self.redact(value)
        value = value if len(value) <= TEXT_MAX else value[: TEXT_MAX - 1] + "…"
        return value if value.isascii() else value.encode(errors="replace").decode()


def whose(request: Request) -> list[Attribute]:
    """Say whose task it is."""
    told: list[Attribute] = [(c.REQUEST_ID, request.id)]
    if request.agent:
        told.append((c.AGENT, request.agent))
    return told


def root(request: Request) -> list[Attribute]:
    """Of the server span, from the beginning."""
    method = "Route" if request.delivery is Delivery.ROUTE else "Complete"
    return [(c.RPC_SYSTEM, c.GRPC), (c.RPC_METHOD, c.METHODS + method), *whose(request)]


def ended(outcome: Outcome, around: Surroundings) -> list[Attribute]:
    """Of the server span, once the task has ended."""
    report = outcome.report
    told: list[Attribute] = [
        (c.OUTCOME, outcome.reason.value if isinstance(outcome, Failed) else "answered"),
        (c.TASK_TYPE, report.assessment.type),
        (c.ATTEMPTS, len(report.attempts)),
        (c.LAYER_PATH, report.layer_path),
        (c.WAITED_MS, report.waited_ms),
        (c.STORY, around.text(report.story)),
    ]
    if report.answered is not None:
        told += [(c.LAYER, report.answered.layer), (c.MODEL, report.answered.key)]
    if isinstance(outcome, Finished):
        told.append((c.RPC_STATUS, "OK"))
        if outcome.replayed:
            told.append((c.REPLAYED, True))
        if outcome.unmet is not None:
            told.append((c.UNMET, outcome.unmet.value))
        return told
    status = around.status_of(outcome.reason)
    told.append((c.RPC_STATUS, status))
    if status in c.RPC_SERVER_ERRORS:
        told.append((c.ERROR_TYPE, status))
    if outcome.retry_at_ms is not None:
        told.append((c.RETRY_AT_MS, outcome.retry_at_ms))
    return told


def assessed(fact: Assessed, request: Request) -> list[Attribute]:
    """Of the first look; what was estimated may quote a message, and is left out."""
    seen = fact.assessment
    told: list[Attribute] = [
        *whose(request),
        (c.TASK_TYPE, seen.type),
        (c.SCORE, seen.score_micro / MICRO),
        (c.TARGET_LAYER, seen.target_layer),
        (c.START_LAYER, seen.start_layer),
    ]
    if seen.threshold_micro is not None:
        told.append((c.THRESHOLD, seen.threshold_micro / MICRO))
    if seen.clamped_by is not None:
        told.append((c.CLAMPED_BY, seen.clamped_by.value))
    return told


def escalated(fact: Escalated, around: Surroundings) -> list[Attribute]:
    """Of the layer that was reached by a change of layer."""
    told: list[Attribute] = [
        (c.FROM, fact.from_layer),
        (c.TO, fact.to_layer),
        (c.REASON, fact.reason.value),
        (c.DETAIL, around.text(fact.detail)),
        (c.KIND, fact.kind.value),
    ]
    if fact.failed_attempt is not None:
        told.append((c.FAILED_ATTEMPT, fact.failed_attempt))
    return told


def selected(fact: Selected) -> list[Attribute]:
    """Of the event of a choice."""
    told: list[Attribute] = [
        (c.ATTEMPT, fact.attempt),
        (c.MODEL, fact.model.key),
        (c.RESERVATION, fact.reservation_id),
    ]
    if fact.skips:
        told.append((c.PASSED_OVER, tuple(map(_passed, fact.skips[:SKIPS_MAX]))))
    return told


def _passed(skip: Skip) -> str:
    cause = skip.verdict.cause.value if skip.verdict.failure is None else skip.verdict.failure.value
    return f"{skip.model.key if skip.model else skip.layer}: {cause}"


def fallback(fact: Fallback, around: Surroundings) -> list[Attribute]:
    """Of the event of another model of the same layer."""
    return [
        (c.ATTEMPT, fact.attempt),
        (c.FROM_MODEL, fact.from_model.key),
        (c.TO_MODEL, fact.to_model.key),
        (c.FAILURE, fact.cls.value),
        (c.ATTEMPT_DETAIL, around.text(fact.detail)),
    ]


def waiting(fact: Waiting, around: Surroundings) -> list[Attribute]:
    """Of a wait."""
    return [
        (c.WAIT_REASON, fact.reason.value),
        (c.WAIT_RULE, fact.rule),
        (c.WAIT_DETAIL, around.text(fact.detail)),
        (c.WAIT_EARLIEST_MS, fact.earliest_ms),
        (c.WAIT_POSITION, fact.position),
    ]


def called(fact: Selected, request: Request, around: Surroundings) -> list[Attribute]:
    """Of an attempt, as it begins."""
    model, sampling = fact.model, request.sampling
    told: list[Attribute] = [
        (c.OPERATION, c.CHAT),
        (c.PROVIDER, c.PROVIDERS.get(model.provider, model.provider)),
        (c.REQUEST_MODEL, model.wire_id),
        (c.REQUEST_MAX_TOKENS, fact.output_tokens_max),
        (c.ATTEMPT, fact.attempt),
        (c.LAYER, model.layer),
        (c.MODEL, model.key),
        (c.RESERVATION, fact.reservation_id),
    ]
    optional = (
        (c.CONVERSATION, request.task.session_id or None),
        (c.REQUEST_TEMPERATURE, sampling.temperature),
        (c.REQUEST_TOP_P, sampling.top_p),
        (c.REQUEST_SEED, sampling.seed),
        (c.REQUEST_FREQUENCY_PENALTY, sampling.frequency_penalty),
        (c.REQUEST_PRESENCE_PENALTY, sampling.presence_penalty),
    )
    told += [(name, value) for name, value in optional if value is not None]
    if request.response_format.kind is not FormatKind.TEXT:
        told.append((c.OUTPUT_TYPE, "json"))
    if _captures(request, around):
        words = content.told(request.messages, around.capture, around.redact)
        told.append((c.INPUT_MESSAGES, words))
    if request.delivery is Delivery.ROUTE:
        return told  # its caller calls: where, and how, is not known here
    told.append((c.REQUEST_STREAM, True))
    address = around.address_of(model)
    if address is not None:
        told += [(c.SERVER_ADDRESS, address[0]), (c.SERVER_PORT, address[1])]
    return told


def answer(outcome: Outcome, request: Request, around: Surroundings) -> list[Attribute]:
    """Of the attempt that answered: its words, where they are told and known (WHOLE delivery)."""
    parts = outcome.answer.parts if isinstance(outcome, Finished) and not outcome.unmet else ()
    if not parts or not _captures(request, around):
        return []
    return [(c.OUTPUT_MESSAGES, content.answered(parts, around.capture, around.redact))]


def _captures(request: Request, around: Surroundings) -> bool:
    private = request.task.data_demand is DataDemand.PRIVATE
    return around.capture.of(request.agent) and not private


def over(record: AttemptRecord, around: Surroundings) -> Iterator[Attribute]:
    """Of an attempt, once it is over: how, and what it used and cost."""
    usage = record.usage
    yield c.ATTEMPT_STATUS, record.status.value
    if record.failure is not None and record.status is not AttemptStatus.REJECTED:
        yield c.ERROR_TYPE, record.failure.value
    if record.detail:
        yield c.ATTEMPT_DETAIL, around.text(record.detail)
    if record.http_status:
        yield c.HTTP_STATUS, record.http_status
    if record.reported_model:
        yield c.RESPONSE_MODEL, around.text(record.reported_model[:NAME_MAX])
    if record.finish is not None:
        yield c.FINISH_REASONS, (record.finish.value,)
    if record.first_delta_ms:
        yield c.TIME_TO_FIRST_CHUNK, (record.first_delta_ms - record.started_ms) / 1_000
    if usage.total_tokens:
        yield c.INPUT_TOKENS, usage.input_tokens
        yield c.OUTPUT_TOKENS, usage.output_tokens
    if usage.cached_tokens:
        yield c.CACHE_READ_TOKENS, usage.cached_tokens
    if usage.cache_write_tokens:
        yield c.CACHE_WRITE_TOKENS, usage.cache_write_tokens
    if usage.reasoning_tokens:
        yield c.REASONING_TOKENS, usage.reasoning_tokens
    yield c.BASIS, record.basis.value
    yield c.LIST_COST, record.list_nanos
    yield c.CHARGED_COST, record.charged_nanos
    if record.gate is not None:
        yield c.GATE, record.gate.value
