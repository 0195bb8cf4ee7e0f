"""What a caller and an observer may be told. Frozen; each is announced at most once."""

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from escalade_server.core.catalog import Model
from escalade_server.core.failure import FailureClass
from escalade_server.core.gates import Gate
from escalade_server.core.record import record
from escalade_server.core.standing import VerdictClass
from escalade_server.core.trace import Answer, Assessment, AttemptRecord, Report, Skip


class EscalationReason(Enum):
    """Why the layer changed. Closed (R20)."""

    RATE_LIMIT = "rate_limit"
    CAP = "cap"
    OUTAGE = "outage"
    TIMEOUT = "timeout"
    CONTEXT = "context"
    FEATURE = "feature"
    COMPLEXITY = "complexity"
    CAPABILITY = "capability"
    CONSTRAINT = "constraint"
    HELD = "held"
    QUALITY = "quality"
    EVIDENCE = "evidence"
    UNCONFIGURED = "unconfigured"
    DOWNGRADE = "downgrade"


class EscalationKind(Enum):
    """INITIAL: a start above the first layer; FAILURE: a layer could not; or a DOWNGRADE (R20)."""

    INITIAL = "initial"
    FAILURE = "failure"
    DOWNGRADE = "downgrade"


class AlertKind(Enum):
    """What an alert is about. Closed."""

    BUDGET = "budget"
    QUOTA = "quota"
    EXHAUSTED = "exhausted"
    RECOVERED = "recovered"
    UNCONFIGURED = "unconfigured"
    AUTH = "auth"
    BALANCE = "balance"
    MODEL_GONE = "model_gone"
    PLAN = "plan"
    PROVIDER = "provider"
    """It shows no certificate that is trusted, counts beyond belief, or names another model."""


class ErrorReason(Enum):
    """Why a task failed. Closed; each maps to one gRPC status (style 3.7)."""

    REQUEST_INVALID = "request_invalid"
    REQUEST_REJECTED = "request_rejected"
    NO_ELIGIBLE_MODEL = "no_eligible_model"
    BUDGET_EXHAUSTED = "budget_exhausted"
    RATE_LIMITED = "rate_limited"
    ALL_MODELS_FAILED = "all_models_failed"
    DEADLINE_REACHED = "deadline_reached"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    CONSENT_REQUIRED = "consent_required"
    QUALITY_NOT_MET = "quality_not_met"
    TRIGGER_NOT_MET = "trigger_not_met"
    REQUEST_IN_PROGRESS = "request_in_progress"
    ALREADY_ANSWERED = "already_answered"
    TOO_MANY_WAITERS = "too_many_waiters"
    DRAINING = "draining"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    BUG = "bug"


@record
class Assessed:
    """The score and where the task starts."""

    assessment: Assessment


@record
class Selected:
    """A model was reserved and is about to be called."""

    attempt: int
    model: Model
    reservation_id: str
    expires_ms: int
    input_tokens_max: int
    output_tokens_max: int
    skips: tuple[Skip, ...]
    """Models passed over for this choice; in ``Fallback`` stand only failed attempts (R20)."""
    held_by: tuple[Gate, ...] = ()
    """Gates that hold its deltas back until they have decided (R21)."""
    before: tuple[AttemptRecord, ...] = field(default=(), compare=False, repr=False)
    """The attempts that are over by now; for those who watch."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """After a failed attempt another model of the same layer is tried."""

    attempt: int
    """The failed attempt."""
    from_model: Model
    to_model: Model
    cls: FailureClass
    detail: str


@dataclass(frozen=True, slots=True)
class Escalated:
    """The selected layer changed; exactly one for each change, from(k+1) = to(k) (R20)."""

    from_layer: str
    to_layer: str
    reason: EscalationReason
    detail: str
    kind: EscalationKind
    failed_attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The task waits for room; it goes on at ``earliest_ms`` at the soonest."""

    reason: VerdictClass
    earliest_ms: int
    rule: str
    detail: str = ""
    position: int = 0
    """In the queue, from 1; 0 for a pause of some seconds, out of any queue."""
    notify: bool = False
    """A person is to be told: once per cause, also over breaks, if the strategy says so."""
    repeated: bool = False
    """Told before in this call, word for word."""
    resume_token: str = ""
    """Keeps the place after a break; the engine's (P8)."""
    before: tuple[AttemptRecord, ...] = field(default=(), compare=False, repr=False)
    """The attempts that are over by now; for those who watch."""


@dataclass(frozen=True, slots=True)
class Retracted:
    """All deltas of this attempt are void (DESIGN 6, guarantee 3)."""

    attempt: int
    cls: FailureClass
    detail: str


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should know of."""

    kind: AlertKind
    detail: str
    model: Model | None = None


class Finished(NamedTuple):
    """The task is answered, and what it cost is durable. ``answer`` for WHOLE delivery only."""

    report: Report
    answer: Answer
    replayed: bool = False
    """Told again to the same request id; nothing was done or charged for it (R27)."""
    unmet: Gate | None = None
    """The gate that the answer failed: it stands in, since no better one could be had (R21)."""


class Failed(NamedTuple):
    """The task has no answer. ``retry_at_ms`` is when trying again can succeed, None if never.

    ``detail`` says what happened and what to do; ``metadata`` holds each variable of it (AIP-193).
    """

    reason: ErrorReason
    detail: str
    report: Report
    retry_at_ms: int | None = None
    metadata: tuple[tuple[str, str], ...] = ()


Fact = Assessed | Selected | Fallback | Escalated | Waiting | Retracted | Alert
Outcome = Finished | Failed
