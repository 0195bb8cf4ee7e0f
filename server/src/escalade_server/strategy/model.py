"""The whole strategy file as typed sections; the JSON Schema is generated from here (DESIGN 3).

Amounts are nano-dollars, times milliseconds, scores and weights millionths. An unknown key is
always an error. What is accepted but not built yet is named in ``not_yet.py``.
"""

from decimal import Decimal
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from escalade_server.core.catalog import (
    Billing,
    DataPolicy,
    Rank,
)
from escalade_server.core.gates import Gate, OnUnmet
from escalade_server.core.rules import (
    OnAllExhausted,
    OnBudgetAlert,
    OnComplexity,
    OnOutage,
    OnRateLimit,
    OnTargetExhausted,
)
from escalade_server.core.task import Feature
from escalade_server.strategy.errors import did_you_mean
from escalade_server.strategy.fields import (
    AgentName,
    Count,
    Depth,
    DurationMs,
    Flag,
    LayerName,
    Limit,
    Money,
    Name,
    Percent,
    ProviderName,
    RateForm,
    ResetDay,
    ScoreMicro,
    Start,
    StateForm,
    Triggers,
    Usd,
    Version,
    WeightMicro,
    Word,
    refusal,
)

USD_PER_MILLION_MAX = Decimal(1000)
USD_PER_MILLION_MIN = Decimal("0.001")
"""Nobody sells for less, but gives it away; what vendors list per token is below it."""


class Section(BaseModel):
    """Every section refuses keys that it does not know (G4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RateLimit(Section):
    """Requests and tokens per window; 0 means nothing is allowed."""

    requests_per_second: Limit = None
    requests_per_minute: Limit = None
    requests_per_hour: Limit = None
    requests_per_day: Limit = None
    requests_per_week: Limit = None
    requests_per_month: Limit = None
    tokens_per_second: Limit = None
    tokens_per_minute: Limit = None
    tokens_per_hour: Limit = None
    tokens_per_day: Limit = None
    tokens_per_week: Limit = None
    tokens_per_month: Limit = None
    cooldown_on_limit: DurationMs | None = None
    """How long a model rests when its provider names no reset instant (R9)."""


RateLimitForm = Annotated[RateLimit, RateForm]


class Price(Section):
    """List price in dollars per million tokens; it beats every table (R17)."""

    i_know: Flag = False
    """States that a price above $1,000, or below $0.001, per million tokens is meant (G6)."""
    input: Usd
    output: Usd
    cached: Usd | None = None
    cache_write: Usd | None = None
    per_request: Usd = Decimal(0)
    """Dollars per request, on top."""

    @field_validator("input", "output", "cached", "cache_write", "per_request")
    @classmethod
    def bounded(cls, usd: Decimal | None, info: ValidationInfo) -> Decimal | None:
        """Refuse a price that was most likely meant per token or per thousand (G6)."""
        if usd is None or info.data.get("i_know"):
            return usd
        mend = "prices are dollars per 1,000,000 tokens; if it is right, add `i_know: true`"
        if usd > USD_PER_MILLION_MAX:
            raise refusal("the price is too high", "0 to 1000 dollars", mend)
        if 0 < usd < USD_PER_MILLION_MIN and info.field_name != "per_request":
            raise refusal("the price is too low", "0, or 0.001 to 1000 dollars", mend)
        return usd


class Caps(Section):
    """A monthly cap, under either of its two names."""

    monthly_cap: Money = None
    monthly_budget: Money = None
    """The same as monthly_cap."""
    cap_resets: ResetDay | None = None

    @property
    def cap_nanos(self) -> int | None:
        """The cap, whichever name it was given under."""
        return self.monthly_cap if self.monthly_cap is not None else self.monthly_budget


class Demands(Section):
    """Gates that an answer must pass (R21); a length or a pattern is a gate by itself."""

    shortest_characters: Count | None = None
    pattern: Name | None = None
    """A regular expression of linear time, to be found somewhere in the text."""
    gates: list[Gate] = Field(default_factory=lambda: [Gate.EMPTY])

    @field_validator("gates")
    @classmethod
    def complete(cls, gates: list[Gate], info: ValidationInfo) -> list[Gate]:
        """Refuse a gate that asks for nothing."""
        for gate, key in ((Gate.TOO_SHORT, "shortest_characters"), (Gate.PATTERN, "pattern")):
            if gate in gates and info.data.get(key, "") is None:
                mend = f"state `{key}:` beside it"
                raise refusal(f"{gate.value} asks for nothing by itself", mend=mend)
        return gates


class Quality(Demands):
    """The strategy's own gates, and what becomes of an answer that fails any."""

    max_escalations: Count = 2
    on_unmet: OnUnmet = OnUnmet.FAIL


class Model(Caps):
    """One model of a layer."""

    provider: ProviderName
    model: Name
    account: ProviderName | None = None
    """The account that it is offered on; without one, every account of its provider."""
    rate_limit: RateLimitForm | None = None
    capabilities: list[Word] = Field(default_factory=list)
    price: Price | None = None
    billing: Billing | None = None
    data: DataPolicy | None = None
    features: list[Feature] | None = None
    context_tokens: Count | None = None
    output_tokens_max: Count | None = None


class Layer(Caps):
    """Models of one price class, tried in order of priority."""

    name: LayerName
    models: list[Model] = Field(min_length=1)
    priority: Count | None = None
    trigger: Triggers | None = None
    cost_per_month: Money = None
    billing: Billing | None = None
    consent: Literal["required", "not_required"] = "not_required"
    data: DataPolicy | None = None
    reserved_for_complexity: Percent | None = None
    quality: Demands | None = None
    """Gates for its answers, beside the strategy's."""
    was: LayerName | None = None
    """The name under which its cap is counted since before a renaming (R18)."""


class EscalationLogic(Section):
    """What to do when (R4, R7, R10)."""

    rate_limit_hit: OnRateLimit = OnRateLimit.NEXT_LAYER
    complexity_high: OnComplexity = OnComplexity.JUMP
    on_target_exhausted: OnTargetExhausted = OnTargetExhausted.DOWNGRADE
    budget_alert: OnBudgetAlert = OnBudgetAlert.NOTIFY
    never_fail_silently: Flag = True

    @field_validator("never_fail_silently")
    @classmethod
    def never(cls, value: object) -> object:
        """Refuse false: the promise is the product."""
        if not value:
            mend = "remove the key: that nothing fails silently is what this product promises"
            raise refusal("it cannot be switched off", "true", mend)
        return value


class FailureHandling(Section):
    """What to do when nothing is left, or a provider is out (R7, R22)."""

    on_all_layers_exhausted: OnAllExhausted = OnAllExhausted.NOTIFY_AND_WAIT
    on_provider_outage: OnOutage = OnOutage.SKIP
    log_escalation_events: Flag = True
    max_wait: DurationMs | None = None


class Monitoring(Section):
    """What is counted, reported and alerted."""

    track_token_usage: Flag = True
    alert_at_budget_80_percent: Flag | None = None
    alert_at_budget_percent: list[Percent] | None = None
    daily_usage_report: Flag = False


class ComplexityScoring(Section):
    """Weights and threshold of the score (DESIGN 4); what is missing keeps its default (R4)."""

    file_count_weight: WeightMicro | None = None
    reasoning_depth_weight: WeightMicro | None = None
    context_length_weight: WeightMicro | None = None
    threshold_for_premium: ScoreMicro | None = None


class CallTimeouts(Section):
    """Limits of one attempt (R24)."""

    connect: DurationMs | None = None
    first_token: DurationMs | None = None
    idle: DurationMs | None = None
    total: DurationMs | None = None


class Timeouts(CallTimeouts):
    """Limits of one attempt, and of a task's work (R22, R24)."""

    work: DurationMs | None = None
    hold_patience: DurationMs | None = None
    usage_grace: DurationMs | None = None


def _environment_name(name: str | None) -> str | None:
    if name is not None and not (name.isascii() and name.replace("_", "a").isalnum()):
        raise refusal(
            "not the name of an environment variable",
            "letters, digits and _",
            "write the variable's name here, never the key itself",
        )
    return name


class Key(Section):
    """Where one key is found; never the key itself (D6)."""

    api_key_env: Word | None = None
    api_key_file: Name | None = None

    _named = field_validator("api_key_env")(_environment_name)


def _known_zone(zone: str | None) -> str | None:
    known = available_timezones()
    if zone is not None and zone not in known:
        raise refusal("no such time zone", "an IANA name: UTC", did_you_mean(zone, known))
    return zone


class Account(Key):
    """One of several keys of a provider, with its own state, and what differs for it alone."""

    reset_zone: Word | None = None
    concurrency: Count | None = None
    rate_limit: RateLimitForm | None = None
    quota_group: Word | None = None
    """Accounts of one group count their rate limits together."""

    _in_zone = field_validator("reset_zone")(_known_zone)


class Provider(Key):
    """Who serves models: address, dialect, key, quotas that its models share."""

    base_url: Name | None = None
    dialect: Literal["openai", "anthropic", "gemini"] | None = None
    accounts: Annotated[dict[ProviderName, Account], Field(min_length=1)] | None = None
    """Several keys by name; each is an account with its own limits, cooldowns and state."""
    reset_zone: Word | None = None
    concurrency: Count | None = None
    """Calls at once of one process, over all its models and accounts."""
    timeouts: CallTimeouts | None = None
    """In place of the strategy's, for its calls."""
    data: DataPolicy | None = None
    rate_limit: RateLimitForm | None = None
    monthly_cap: Money = None
    monthly_budget: Money = None
    quota_group: Word | None = None
    model_aliases: dict[Name, Name] = Field(default_factory=dict)

    _in_zone = field_validator("reset_zone")(_known_zone)

    @field_validator("base_url")
    @classmethod
    def plain_url(cls, url: str | None) -> str | None:
        """Refuse what cannot be called, and a password inside the address."""
        if url is None:
            return None
        scheme, _, rest = url.partition("://")
        host = rest.partition("/")[0]
        if scheme not in {"http", "https"} or not host or not rest.isascii() or " " in rest:
            raise refusal("not an address", "http://host/path or https://host/path")
        if "@" in host or "?" in rest or "#" in rest:
            raise refusal("only host, port and path", "https://host/path", "use api_key_env")
        return url.rstrip("/")


class Agent(Section):
    """An authenticated caller, with its own limits."""

    role: Rank = Rank.AGENT
    """Of a caller known by its client certificate; a token carries its own."""
    layers: list[LayerName] | None = Field(default=None, min_length=1)
    """The layers it may use; absent: all."""
    models: list[Name] | None = Field(default=None, min_length=1)
    """The models it may use, as provider/model or by id; absent: all."""
    denied_models: list[Name] = Field(default_factory=list)
    free_only: Flag = False
    consent: list[Word] = Field(default_factory=list)
    """Layers that ask for consent and have it from this agent; "*" means all."""
    data: Literal["any", "no_training", "private"] = "any"
    may_downgrade: Flag | None = None
    spend_limit_per_task: Money = None
    monthly_cap: Money = None
    cap_resets: ResetDay | None = None
    rate_limit: RateLimitForm | None = None
    concurrency: Count | None = None
    """Calls in flight at once."""
    trusted_reports: Flag = False
    """What it reports of its own calls steers everyone (R33)."""


class TaskType(Section):
    """A task type of the user's own, or changes to one of the table (R1, R2)."""

    depth: Depth | None = None
    capabilities: list[Word] | None = None
    start: Start | None = None
    quality: Demands | None = None
    """Gates for answers to it, beside the strategy's."""
    aliases: list[Word] = Field(default_factory=list)


class Webhook(Section):
    """One webhook; its address is a secret and stands elsewhere."""

    url_env: Word | None = None
    url_file: Name | None = None
    secret_env: Word | None = None
    """With it, or ``secret_file``, every notice is signed (HMAC-SHA256)."""
    secret_file: Name | None = None
    body: Literal["plain", "slack"] = "plain"

    _named = field_validator("url_env", "secret_env")(_environment_name)


class Notifications(Section):
    """Where alerts go."""

    webhooks: list[Webhook] = Field(default_factory=list)
    log: Flag = True


class CircuitBreaker(Section):
    """When a provider's circuit opens, and for how long."""

    failures: Count | None = None
    open_for: DurationMs | None = None


class Sessions(Section):
    """Stickiness and evidence over the steps of an agent (R29)."""

    sticky: Flag = True
    evidence: Flag = True
    ttl: DurationMs | None = None


class Idempotency(Section):
    """How long answers are kept for a repeated request id (R27)."""

    keep_answers: DurationMs | None = None


class State(Section):
    """Where counters and reservations live."""

    url: Name


class Reporting(Section):
    """What reports compare with (R15)."""

    baseline: Name | None = None
    zone: Word | None = None
    """IANA zone in which the days of reports begin and end; default is UTC."""

    _in_zone = field_validator("zone")(_known_zone)


class Sections(Section):
    """Sections that may stand inside ``fallback_strategy`` or beside it."""

    complexity_scoring: ComplexityScoring | None = None
    providers: dict[ProviderName, Provider] = Field(default_factory=dict)
    agents: dict[AgentName, Agent] = Field(default_factory=dict)
    task_types: dict[Word, TaskType] = Field(default_factory=dict)
    capability_aliases: dict[Word, Word] = Field(default_factory=dict)
    capability_matching: Literal["prefer", "require"] = "prefer"
    notifications: Notifications | None = None
    quality: Quality | None = None
    circuit_breaker: CircuitBreaker | None = None
    timeouts: Timeouts | None = None
    sessions: Sessions | None = None
    idempotency: Idempotency | None = None
    state: Annotated[State, StateForm] | None = None
    reporting: Reporting | None = None
    attempts_max: Count | None = None
    output_tokens_default: Count | None = None


class Strategy(Sections, Caps):
    """The strategy itself."""

    version: Version | None = None
    layers: list[Layer] = Field(min_length=1)
    escalation_logic: EscalationLogic = EscalationLogic()
    failure_handling: FailureHandling = FailureHandling()
    monitoring: Monitoring = Monitoring()

    @field_validator("version")
    @classmethod
    def known_version(cls, version: str | None) -> str | None:
        """Take 1.x and 2.x (R34)."""
        if version is not None and version.partition(".")[0] not in {"1", "2"}:
            raise refusal("the version is not known", "1.x, 2.x, or no version")
        return version


class StrategyFile(Sections):
    """The whole file."""

    fallback_strategy: Strategy


SECTION_NAMES = tuple(Sections.model_fields)
SHORT_FORMS = ("#/$defs/RateLimit", "#/$defs/State")
"""Sections that may also be written as one word."""


def merged(file: StrategyFile) -> Strategy:
    """Answer the strategy with the sections that stand beside it."""
    beside = {name: getattr(file, name) for name in SECTION_NAMES if name in file.model_fields_set}
    return file.fallback_strategy.model_copy(update=beside)


def schema() -> dict[str, object]:
    """Make the JSON Schema of the file, for editors."""
    made = _as_written(StrategyFile.model_json_schema())
    assert isinstance(made, dict)
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "Escalade strategy"
    return made


def _as_written(part: object) -> object:
    """Say what a file may hold rather than what the model does: no nulls, short forms."""
    if isinstance(part, list):
        return [_as_written(item) for item in part if item != {"type": "null"}]
    if not isinstance(part, dict):
        return part
    if part.get("$ref") in SHORT_FORMS:
        return {"anyOf": [part, {"type": "string"}]}
    kept = {key: value for key, value in part.items() if (key, value) != ("default", None)}
    return {key: _as_written(value) for key, value in kept.items()}
