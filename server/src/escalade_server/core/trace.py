"""The record of a task: what was assessed, what was tried, why, and what it cost."""

from dataclasses import dataclass, field

from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Verdict
from escalade_server.core.task import Basis, FinishReason, Part, Usage


@dataclass(frozen=True, slots=True)
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
    clamped_by: str = ""
    """What moved the start below or above, e.g. ``free_only`` (R1)."""


@dataclass(frozen=True, slots=True)
class Skip:
    """One model (or a whole layer, ``model`` empty) that was passed over, with its reason."""

    layer: str
    provider: str
    account: str
    model: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One call of one model. Instants in Unix ms; ``first_delta_ms`` 0 when there was none."""

    number: int
    layer: str
    provider: str
    account: str
    model: str
    answered_model: str
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
    retracted: bool = False


@dataclass(frozen=True, slots=True)
class Headroom:
    """Room left in one counter after the task."""

    label: str
    key: str
    limit: int
    spent: int
    held: int
    resets_ms: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about a task, given with its ending (DESIGN 6)."""

    request_id: str
    assessment: Assessment
    requested_model: str
    selected_model: str
    answered_model: str
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


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, for ``Delivery.WHOLE``."""

    parts: tuple[Part, ...] = field(default=())
    finish: FinishReason = FinishReason.STOP
    finish_detail: str = ""
