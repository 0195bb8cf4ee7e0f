"""The frozen facts of a strategy: layers, models, limits, prices, triggers, rules.

The strategy package builds a ``Catalog`` from YAML; everything else only reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from escalade_server.core.absence import Absence
from escalade_server.core.money import Price
from escalade_server.core.rules import Rules
from escalade_server.core.task import DataDemand, Feature
from escalade_server.core.triggers import Trigger


class Unit(Enum):
    """What a counter counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    NANOS = "nanos"


class Period(Enum):
    """Window of a counter. Up to an hour it slides; a day and longer are calendar windows (R18)."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class CounterScope(Enum):
    """Whose counter it is."""

    MODEL = "model"
    ACCOUNT = "account"
    LAYER = "layer"
    STRATEGY = "strategy"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Counter:
    """One limit: at most ``limit`` units per window. ``key`` is stable over reloads (R18).

    ``zone`` is the IANA zone in which a calendar window ends; ``reset_day`` the day of the month
    on which a month begins. ``limit`` 0 means nothing is allowed.
    """

    key: str
    unit: Unit
    period: Period
    limit: int
    scope: CounterScope
    label: str
    zone: str = "UTC"
    reset_day: int = 1


class Billing(Enum):
    """How a model is paid for (R15, R16)."""

    FREE = "free"
    SUBSCRIPTION = "subscription"
    METERED = "metered"


class DataPolicy(Enum):
    """What the provider may do with prompts (R28)."""

    LOCAL = "local"
    NO_TRAINING = "no_training"
    UNKNOWN = "unknown"
    TRAINS = "trains"


DEFAULT_ACCOUNT = "default"
"""The account of a provider with one key."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Times and number of calls where a provider's section has its own; None: the strategy's."""

    first_token_ms: int | None = None
    idle_ms: int | None = None
    total_ms: int | None = None
    concurrency: tuple[tuple[str, int], ...] = ()
    """Most calls at once of this process, by provider or account, over all their models."""


OWN_PACE = Pace()


@dataclass(frozen=True, slots=True)
class Model:
    """One model entry on one account.

    ``id`` is the name in the file, ``wire_id`` what is sent upstream. ``counters`` holds every
    counter that a call touches: the model's windows and cap, the account's, the layer's and the
    strategy's caps.
    """

    provider: str
    account: str
    id: str
    wire_id: str
    dialect: str
    layer: str
    layer_index: int
    position: int
    """Place in the file's order over all layers; also the model's number in the catalog."""
    capabilities: frozenset[str]
    counters: tuple[Counter, ...]
    price: Price
    billing: Billing
    features: frozenset[Feature] = frozenset(Feature)
    context_tokens: int | None = None
    output_tokens_max: int | None = None
    data: DataPolicy = DataPolicy.UNKNOWN
    cooldown_on_limit_ms: int | None = None
    bills_after_cancel: bool = False
    """The provider bills to the end although the call was cancelled (R25)."""
    reasoning_bound_tokens: int = 0
    """Reasoning tokens that the vendor does not count inside the output limit (R13)."""
    absence: Absence | None = None
    pace: Pace = OWN_PACE
    ordinary: tuple[Counter, ...] = ()
    """Shares of its caps for tasks that did not jump to its layer (R11)."""
    siblings: tuple[tuple[str, Price], ...] = ()
    """Other models that its provider may answer with, by wire id, and their prices (U30)."""
    key: str = field(init=False)
    """Identity: the same model on two accounts is two models (R18)."""
    account_key: str = field(init=False)
    """Identity of the account that the call is billed to."""
    request_counters: tuple[Counter, ...] = field(init=False)
    """Those of ``counters`` that count requests."""
    is_paid: bool = field(init=False)
    """A call costs money or uses up a subscription."""

    def __post_init__(self) -> None:
        """Work out once what is looked up for every decision."""
        object.__setattr__(self, "account_key", f"{self.provider}/{self.account}")
        object.__setattr__(self, "key", f"{self.provider}/{self.account}/{self.id}")
        requests = tuple(c for c in self.counters if c.unit is Unit.REQUESTS)
        object.__setattr__(self, "request_counters", requests)
        object.__setattr__(self, "is_paid", self.billing is not Billing.FREE)

    def declares(self, wanted: frozenset[str], *, all_of: bool) -> bool:
        """Tell whether it declares what is wanted: any one of it, or all (R1, R2)."""
        if all_of:
            return wanted <= self.capabilities
        return not wanted or not wanted.isdisjoint(self.capabilities)


@dataclass(frozen=True, slots=True)
class Layer:
    """Models of one price class; ``triggers`` empty means: entered when all before are out."""

    name: str
    index: int
    priority: int
    models: tuple[Model, ...]
    triggers: tuple[Trigger, ...] = ()
    consent_required: bool = False
    fee_nanos: int = 0
    """Flat fee per calendar month, or the plan of a metered layer (R15)."""
    is_paid: bool = field(init=False)
    """Any of its models costs money."""

    def __post_init__(self) -> None:
        """Work out once what is asked of it at every task."""
        object.__setattr__(self, "is_paid", any(model.is_paid for model in self.models))


@dataclass(frozen=True, slots=True)
class Scoring:
    """Weights and threshold of the complexity score, in millionths (DESIGN 4, R3, R4)."""

    files_weight_micro: int = 300_000
    depth_weight_micro: int = 700_000
    context_weight_micro: int = 100_000
    threshold_micro: int | None = None
    """``threshold_for_premium``, else the number of the jump trigger; None: no jump."""


@dataclass(frozen=True, slots=True)
class TaskType:
    """Depth 0 to 10, the capability words of which any one suffices, and a pinned start.

    ``start`` is a layer number from 1, -1 for the last, None when capabilities decide (R1).
    """

    name: str
    depth: int
    needs: frozenset[str]
    start: int | None = None


class Rank(Enum):
    """What an authenticated caller may do: an agent works, an operator also steers (D1)."""

    AGENT = "agent"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Agent:
    """An authenticated caller's own limits; what is absent follows strategy and request."""

    name: str
    rank: Rank = Rank.AGENT
    """Of a caller known by its certificate; a token carries its own."""
    forbidden: frozenset[str] = frozenset()
    """``Model.key`` of every model that it may not use, whether by layer or by name."""
    free_only: bool = False
    spend_limit_nanos: int | None = None
    """For one task."""
    may_downgrade: bool | None = None
    consented_layers: tuple[str, ...] = ()
    data_demand: DataDemand = DataDemand.NONE
    counters: tuple[Counter, ...] = ()
    """Over all its tasks; money counts what paid models are worth (R15)."""
    calls_max: int | None = None
    """At once."""
    trusted_reports: bool = False
    """Its reports steer everyone, not itself alone (R33)."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """A whole strategy, resolved. Layers are in order of priority."""

    layers: tuple[Layer, ...]
    scoring: Scoring
    rules: Rules
    task_types: Mapping[str, TaskType]
    type_aliases: Mapping[str, str]
    other_type: TaskType
    baseline: Model | None = None
    """The one premium model that savings are measured against (R15)."""
    baselines: tuple[Model, ...] = ()
    """All single models that reports compare with; ``baseline`` is the first."""
    capability_aliases: Mapping[str, str] = field(default_factory=dict)
    agents: Mapping[str, Agent] = field(default_factory=dict)
    """By name; with any at all, callers of other names are refused."""
    ranks: Mapping[frozenset[str], tuple[tuple[Model, ...], ...]] = field(init=False)
    """``ranked`` for what the types of task need."""

    def __post_init__(self) -> None:
        """Rank the models once, not for every task."""
        kinds = (*self.task_types.values(), self.other_type)
        ranks = {kind.needs: self.ranked(kind.needs, all_of=False) for kind in kinds}
        object.__setattr__(self, "ranks", ranks)

    def ranked(self, wanted: frozenset[str], *, all_of: bool) -> tuple[tuple[Model, ...], ...]:
        """Order each layer: models that declare what is wanted, then the rest, in file order."""
        return tuple(
            tuple(sorted(layer.models, key=lambda model: not model.declares(wanted, all_of=all_of)))
            for layer in self.layers
        )

    @property
    def models(self) -> tuple[Model, ...]:
        """All models in file order."""
        return tuple(model for layer in self.layers for model in layer.models)

    def task_type(self, name: str) -> TaskType:
        """Resolve a type's name or usual spelling; anything else is ``other`` (R2)."""
        known = self.task_types.get(name)
        if known is not None:
            return known
        word = name.strip().lower().replace("_", "-")
        return self.task_types.get(self.type_aliases.get(word, word), self.other_type)
