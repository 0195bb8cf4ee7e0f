"""How to decide: the values of the strategy's escalation logic, and the limits of deciding."""

from dataclasses import dataclass
from enum import Enum

from escalade_server.core.gates import NO_QUALITY, Quality


class OnRateLimit(Enum):
    """``escalation_logic.rate_limit_hit`` (R7)."""

    NEXT_LAYER = "next_layer"
    NEXT_MODEL = "next_model"


class OnComplexity(Enum):
    """``escalation_logic.complexity_high``."""

    JUMP = "jump_to_premium"
    NEXT_LAYER = "next_layer"
    IGNORE = "ignore"


class OnTargetExhausted(Enum):
    """``escalation_logic.on_target_exhausted`` (R10)."""

    DOWNGRADE = "downgrade"
    WAIT = "wait"
    FAIL = "fail"


class OnAllExhausted(Enum):
    """``failure_handling.on_all_layers_exhausted``."""

    NOTIFY_AND_WAIT = "notify_user_and_wait"
    WAIT = "wait"
    FAIL = "fail"


class OnOutage(Enum):
    """``failure_handling.on_provider_outage`` (R7)."""

    SKIP = "skip_to_next_provider"
    NEXT_LAYER = "next_layer"
    RETRY_THEN_SKIP = "retry_then_skip"


class OnBudgetAlert(Enum):
    """``escalation_logic.budget_alert``."""

    NOTIFY = "notify_user"
    LOG = "log"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Rules:
    """How to decide, and the limits of deciding. Times in ms."""

    on_rate_limit: OnRateLimit = OnRateLimit.NEXT_LAYER
    on_complexity: OnComplexity = OnComplexity.JUMP
    on_target_exhausted: OnTargetExhausted = OnTargetExhausted.DOWNGRADE
    on_all_exhausted: OnAllExhausted = OnAllExhausted.NOTIFY_AND_WAIT
    on_outage: OnOutage = OnOutage.SKIP
    on_budget_alert: OnBudgetAlert = OnBudgetAlert.NOTIFY
    alert_percents: tuple[int, ...] = (80, 100)
    require_capability: bool = False
    log_escalations: bool = True
    track_tokens: bool = True
    daily_report: bool = False
    """Make the report of each day when it has ended."""
    report_zone: str = "UTC"
    """IANA zone in which the days of reports begin and end."""
    attempts_max: int = 8
    quality: Quality = NO_QUALITY
    output_tokens_default: int = 4_096
    work_ms: int = 300_000
    max_wait_ms: int = 86_400_000
    hold_patience_ms: int = 5_000
    first_token_ms: int = 30_000
    idle_ms: int = 45_000
    attempt_total_ms: int = 900_000
    connect_ms: int = 5_000
    usage_grace_ms: int = 2_000
    breaker_failures: int = 5
    breaker_open_ms: int = 10_000
    keep_answers_ms: int = 600_000
    """How long an answer is kept for its request id; 0 for not at all (R27)."""
    session_sticky: bool = True
    """The model that answered a session last comes first in its layer (R29)."""
    session_evidence: bool = True
    """Signs of struggle in a session raise the start of its next steps."""
    session_ttl_ms: int = 3_600_000
