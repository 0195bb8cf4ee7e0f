"""The record of a task: what was assessed, what was tried, why, and what it cost."""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from escalade_server.core.catalog import Counter, Model
from escalade_server.core.failure import FailureClass
from escalade_server.core.gates import Gate
from escalade_server.core.record import record
from escalade_server.core.standing import Verdict
from escalade_server.core.task import Basis, FinishReason, Part, Usage


class Clamp(Enum):
    """A limit of the caller that moved the start of a task (R1)."""

    FREE_ONLY = "free_only"
    LOWEST_LAYER = "lowest_layer"
    HIGHEST_LAYER = "highest_layer"
    CONSENT = "consent"
    DATA = "data"


@record
class Assessment:
    """The complexity of a task. Points in micro; the three parts add up to ``uncapped_micro``."""

    score_micro: int
    uncapped_micro: int
    files_micro: int
    depth_micro: int
    context_micro: int
    threshold_micro: int | None
    stated: bool
    """The caller stated the complexity itself; it replaced the score."""
    type: str
    """Canonical task type; ``other`` when unknown."""
    estimated: tuple[tuple[str, str], ...]
    """What was estimated from the messages, each with its reason."""
    target_layer: str
    """By score alone; the first layer if not above the threshold."""
    start_layer: str
    clamped_by: Clamp | None = None
    """Which limit moved the start away from where the task would begin (R1)."""
    raised_by: int = 0
    """Layers by which signs of struggle in its session moved it up (R29)."""
    session_note: str = ""
    """What the session did to the start, in words: a raise, or its end."""


class Skip(NamedTuple):
    """One model (or a whole layer, without a model) that was passed over, with its reason."""

    layer: str
    model: Model | None
    verdict: Verdict


class AttemptStatus(Enum):
    """How an attempt ended."""

    OK = "ok"
    FAILED = "failed"
    REJECTED = "rejected"
    """Answered, but the answer failed a gate; charged all the same."""
    RETRACTED = "retracted"
    """Broke after its first delta; what it had said is void."""
    CANCELLED = "cancelled"
    NOT_SENT = "not_sent"
    UNREPORTED = "unreported"
    """Called by the caller itself, which never said how it went; booked at the reserve (R32)."""


class Oddities(NamedTuple):
    """What was odd in an answer that came all the same."""

    replaced: int = 0
    """Invalid UTF-8 sequences that became U+FFFD (U16)."""
    unknown: int = 0
    """Events and fields of events that are not known (U29); fields inside JSON do not count."""
    unbelievable: bool = False
    """Its usage was malformed, negative or beyond belief, so it was counted here (U26)."""


@record
class AttemptRecord:
    """One call of one model. Instants in Unix ms; ``first_delta_ms`` 0 when there was none."""

    number: int
    model: Model
    reservation_id: str
    status: AttemptStatus
    reported_model: str
    """The model's name in the provider's own answer; empty when it gave none."""
    finish: FinishReason | None
    failure: FailureClass | None
    detail: str
    http_status: int
    started_ms: int
    first_delta_ms: int
    ended_ms: int
    usage: Usage
    list_nanos: int
    charged_nanos: int
    basis: Basis
    oddities: Oddities | None = None
    gate: Gate | None = None
    """The gate that it failed (R21)."""


class Figures(NamedTuple):
    """What a task that was answered took, over all its attempts, without a word of its answer."""

    usage: Usage
    list_nanos: int
    charged_nanos: int
    started_ms: int
    ended_ms: int


def figures(attempts: Sequence[AttemptRecord], started_ms: int, ended_ms: int) -> Figures:
    """Sum up what the attempts of a task are booked with."""
    if len(attempts) == 1:
        [only] = attempts
        return Figures(only.usage, only.list_nanos, only.charged_nanos, started_ms, ended_ms)
    return Figures(
        _sum([attempt.usage for attempt in attempts]),
        sum([attempt.list_nanos for attempt in attempts]),
        sum([attempt.charged_nanos for attempt in attempts]),
        started_ms,
        ended_ms,
    )


def _sum(usages: list[Usage]) -> Usage:
    return Usage(
        sum(u.input_tokens for u in usages),
        sum(u.output_tokens for u in usages),
        sum(u.cached_tokens for u in usages),
        sum(u.cache_write_tokens for u in usages),
        sum(u.reasoning_tokens for u in usages),
    )


@record
class Headroom:
    """Room left in one counter after the task."""

    counter: Counter
    spent: int
    held: int
    resets_ms: int


@record
class Report:
    """Everything about a task, given with its ending (DESIGN 6)."""

    request_id: str
    assessment: Assessment
    requested_model: str
    """The one model the caller allowed, if it named exactly one."""
    selected: Model | None
    answered: Model | None
    layer_path: tuple[str, ...]
    attempts: tuple[AttemptRecord, ...]
    skips: tuple[Skip, ...]
    usage: Usage
    list_nanos: int
    charged_nanos: int
    baseline_model: str
    baseline_nanos: int | None
    """What the same usage would have cost on the baseline model; None without one."""
    started_ms: int
    ended_ms: int
    story: str
    headroom: tuple[Headroom, ...] = ()
    earliest_ms: int | None = None
    waited_ms: int = 0
    """For capacity, over all its waits in this call (R22)."""


@record
class Answer:
    """A whole answer, for ``Delivery.WHOLE``."""

    parts: tuple[Part, ...] = ()
    finish: FinishReason = FinishReason.STOP
    finish_detail: str = ""
