"""The log: structlog, one line per fact worth a line, JSON for programs and text for people.

No prompt, answer or key is ever written: facts carry none, and what was estimated from a
message is left out. Values that callers choose are made printable, so that none forges a line.
"""

import logging
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, TextIO, TypeAlias

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from escalade_server.core import words
from escalade_server.core.facts import (
    Alert,
    Assessed,
    ErrorReason,
    Escalated,
    Fact,
    Failed,
    Fallback,
    Finished,
    Outcome,
    Retracted,
    Selected,
    Waiting,
)
from escalade_server.core.failure import NEVER_MS
from escalade_server.core.task import Request
from escalade_server.core.trace import AttemptStatus
from escalade_server.core.tracing import trace_id
from escalade_server.telemetry import names
from escalade_server.telemetry.redact import Redactor
from escalade_server.telemetry.sink import LineSink

Log: TypeAlias = FilteringBoundLogger
"""The logger, for those who hand it on and may not know the library."""
Format = Literal["json", "text"]
Level = Literal["debug", "info", "warning", "error"]
LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

EVENT_WIDTH = 20
"""Columns of an event's name on a terminal, so that what follows stands in a line."""
PROGRAMS = frozenset({"task_id", "trace_id"})
INSTANTS = frozenset({"until_ms", "earliest_ms", "retry_at_ms"})

_EventDict = MutableMapping[str, Any]  # structlog's own type for what its processors pass on


def is_text(stream: TextIO, form: Format | None) -> bool:
    """Whether the log is for people: as asked for, else where a terminal is."""
    return form == "text" or (form is None and stream.isatty())


def make_logger(
    sink: LineSink, stream: TextIO, form: Format | None, level: Level,
    redactor: Redactor | None = None,
) -> Log:  # fmt: skip
    """Make a logger that writes to ``sink``, which belongs to ``stream``."""
    redact = redactor or Redactor()

    def redacted(_logger: object, _method: str, event: _EventDict) -> _EventDict:
        return redact.event(event)

    people = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), timestamp_key="time", sort_keys=False, pad_event_to=EVENT_WIDTH
    )
    as_text = is_text(stream, form)
    renderer: list[structlog.typing.Processor] = (
        [_printable, _readable, people] if as_text else [_to_json]
    )
    instant = "%H:%M:%S.%f" if as_text else "iso"
    logger: Log = structlog.wrap_logger(
        sink,
        processors=[
            redacted,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt=instant, utc=True, key="time"),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
    ).bind()
    return logger


def _to_json(_logger: object, _method: str, event: _EventDict) -> str:
    if event.get("until_ms") == NEVER_MS:
        event["until_ms"] = None
    ordered = {key: event.pop(key) for key in ("time", "level", "event")}
    return msgspec.json.encode({**ordered, **event}, enc_hook=str).decode()


def _printable(_logger: object, _method: str, event: _EventDict) -> _EventDict:
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = repr(value)
    return event


def _readable(_logger: object, _method: str, event: _EventDict) -> _EventDict:
    """Leave out what is empty, and ids that programs need; write money and instants as people do.

    The request id is what `escalade trace` takes; JSON has all of it.
    """
    event["time"] = event["time"][:-3]
    of_task = "request_id" in event
    shown: _EventDict = {}
    for key, value in event.items():
        if value is None or value == "" or (of_task and key in PROGRAMS):
            continue
        if key.endswith("_nano_usd") and isinstance(value, int):
            shown[key.removesuffix("_nano_usd")] = words.usd(value)
        elif key in INSTANTS and isinstance(value, int):
            shown[key.removesuffix("_ms")] = _instant(value)
        else:
            shown[key] = value
    return shown


def _instant(at_ms: int) -> str:
    if at_ms >= NEVER_MS:
        return "a person acts"
    return f"{datetime.fromtimestamp(at_ms / 1_000, tz=UTC):%Y-%m-%dT%H:%M:%SZ}"


LEVEL_OF: Mapping[type[Fact], int] = MappingProxyType(
    {
        Assessed: logging.DEBUG,
        Selected: logging.DEBUG,
        Fallback: logging.INFO,
        Escalated: logging.INFO,
        Waiting: logging.INFO,
        Retracted: logging.WARNING,
        Alert: logging.WARNING,
    }
)
"""How loud each fact is; asked first, so that a fact below the level costs next to nothing."""


class LogObserver:
    """``Observer`` of the engine: facts to log lines. Costs nothing where a level is filtered."""

    def __init__(
        self, log: Log, level: Level, *, log_escalations: bool = True, every_task: bool = True
    ) -> None:
        """``log_escalations`` False drops the escalation's line, nothing else (R7).

        Without ``every_task`` a task that went straight is told at level debug only: a line costs
        more than all else that watches it.
        """
        self._log, self._every_task = log, every_task
        self._level = LEVELS[level]
        self.log_escalations = log_escalations
        """May change: the strategy says it."""

    def fact(self, task_id: str, request: Request, fact: Fact, now_ms: int) -> None:  # noqa: ARG002 - the port's
        """See one announced fact."""
        if LEVEL_OF[type(fact)] < self._level:
            return
        try:
            self._fact(task_id, request, fact)
        except Exception as error:  # noqa: BLE001 - a watcher never stops what it watches
            self._log.error(names.OBSERVER_FAILED, error=type(error).__name__)

    def ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        """See the one ending of a task."""
        try:
            self._ended(task_id, request, outcome)
        except Exception as error:  # noqa: BLE001 - as above
            self._log.error(names.OBSERVER_FAILED, error=type(error).__name__)

    def _fact(self, task_id: str, request: Request, fact: Fact) -> None:
        if isinstance(fact, Escalated) and not self.log_escalations:
            return
        log = self._of(task_id, request)
        match fact:
            case Assessed(assessment):
                log.debug(
                    names.TASK_ASSESSED,
                    type=assessment.type,
                    score=assessment.score_micro / 1_000_000,
                    target_layer=assessment.target_layer,
                    start_layer=assessment.start_layer,
                )
            case Selected():
                log.debug(
                    names.TASK_SELECTED,
                    attempt=fact.attempt,
                    layer=fact.model.layer,
                    model=fact.model.key,
                    skips=len(fact.skips),
                )
            case Fallback():
                log.info(
                    names.TASK_FALLBACK,
                    attempt=fact.attempt,
                    layer=fact.to_model.layer,
                    from_model=fact.from_model.key,
                    to_model=fact.to_model.key,
                    failure=fact.cls.value,
                    detail=fact.detail,
                )
            case Escalated():
                log.info(
                    names.TASK_ESCALATED,
                    from_layer=fact.from_layer,
                    to_layer=fact.to_layer,
                    reason=fact.reason.value,
                    kind=fact.kind.value,
                    detail=fact.detail,
                    attempt=fact.failed_attempt,
                )
            case Waiting():
                if fact.repeated:
                    return  # to its caller, as a sign of life
                log.info(
                    names.TASK_WAITING,
                    reason=fact.reason.value,
                    rule=fact.rule,
                    earliest_ms=fact.earliest_ms,
                    position=fact.position,
                )
            case Retracted():
                log.warning(
                    names.TASK_RETRACTED,
                    attempt=fact.attempt,
                    failure=fact.cls.value,
                    detail=fact.detail,
                )
            case Alert():
                log.warning(names.TASK_ALERT, kind=fact.kind.value, detail=fact.detail)

    def _of(self, task_id: str, request: Request) -> Log:
        """Bind what tells tasks, and their traces, apart."""
        trace = trace_id(task_id, request.trace)
        return self._log.bind(
            request_id=request.id, agent=request.agent, task_id=task_id, trace_id=trace
        )

    def _ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        straight, loudest = False, logging.ERROR
        if isinstance(outcome, Finished):
            straight = not (self._every_task or _eventful(outcome))
            loudest = logging.DEBUG if straight else logging.INFO
        if self._level > loudest:
            return
        report = outcome.report
        log = self._of(task_id, request)
        for attempt in report.attempts:
            if attempt.oddities is not None:
                odd = attempt.oddities._asdict()
                log.info(names.TASK_ODD_ANSWER, model=attempt.model.key, **odd)
            if attempt.status is AttemptStatus.REJECTED:
                log.info(
                    names.TASK_REJECTED_ANSWER,
                    attempt=attempt.number,
                    layer=attempt.model.layer,
                    model=attempt.model.key,
                    gate=attempt.gate.value if attempt.gate else "",
                    detail=attempt.detail,
                )
        if isinstance(outcome, Finished) and outcome.replayed:
            log.info(names.TASK_REPLAYED, model=report.answered.key if report.answered else "")
        elif isinstance(outcome, Finished):
            write = log.debug if straight else log.info
            write(
                names.TASK_FINISHED,
                type=report.assessment.type,
                layer=report.layer_path[-1] if report.layer_path else "",
                model=report.answered.key if report.answered else "",
                attempts=len(report.attempts),
                layers=len(report.layer_path),
                input_tokens=report.usage.input_tokens,
                output_tokens=report.usage.output_tokens,
                charged_nano_usd=report.charged_nanos,
                list_nano_usd=report.list_nanos,
                duration_ms=report.ended_ms - report.started_ms,
                unmet=outcome.unmet.value if outcome.unmet else "",
            )
        else:
            self._failed(log, outcome)

    @staticmethod
    def _failed(log: Log, outcome: Failed) -> None:
        write = log.warning
        already = outcome.reason is ErrorReason.ALREADY_ANSWERED  # the first task is logged with it
        if outcome.reason is ErrorReason.CANCELLED:
            write = log.info
        elif outcome.reason is ErrorReason.BUG:
            write = log.error
        write(
            names.TASK_FAILED,
            type=outcome.report.assessment.type,
            reason=outcome.reason.value,
            detail=outcome.detail,
            attempts=len(outcome.report.attempts),
            charged_nano_usd=0 if already else outcome.report.charged_nanos,
            retry_at_ms=outcome.retry_at_ms,
            duration_ms=outcome.report.ended_ms - outcome.report.started_ms,
        )


def _eventful(outcome: Finished) -> bool:
    """Tell whether anything happened on the way to an answer."""
    report = outcome.report
    return bool(
        len(report.attempts) != 1
        or len(report.layer_path) != 1
        or report.waited_ms
        or outcome.unmet
        or outcome.replayed
        or report.attempts[0].oddities
    )
