"""What the core is told of shared state, and what it makes of one model: a verdict (R5, R19)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from escalade_server.core import words
from escalade_server.core.catalog import Counter
from escalade_server.core.failure import FailureClass


class Balance(NamedTuple):
    """One counter in its current window: spent and held units, and when the window ends.

    A row whose ``ends_ms`` has passed counts as empty. For a sliding window ``ends_ms`` is the
    instant at which its oldest part leaves it. NamedTuple: cheap to make, hot (pitfalls, Core).
    """

    window: str
    spent: int
    held: int
    ends_ms: int


@dataclass(frozen=True, slots=True)
class Bench:
    """A cooldown: a model, an account or a provider is set aside until an instant."""

    until_ms: int
    cls: FailureClass
    detail: str


def own_bench(agent: str, key: str) -> str:
    """Key of a cooldown that holds for one agent only: its own reports are not trusted (R33)."""
    return f"{key} of agent {agent}"


_BY_OPERATOR = " by operator"


def operator_bench(key: str) -> str:
    """Key of what an operator set aside: it ends no cooldown, and no cooldown ends it."""
    return key + _BY_OPERATOR


def plain_key(key: str) -> str:
    """Key of what is set aside, whoever did it."""
    return key.removesuffix(_BY_OPERATOR)


def disabled(benches: Mapping[str, Bench]) -> Mapping[str, Bench]:
    """Pick what operators set aside, each under the key of what it is."""
    return {plain_key(k): bench for k, bench in benches.items() if k.endswith(_BY_OPERATOR)}


class CircuitState(Enum):
    """State of a provider's circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Circuit:
    """OPEN until ``until_ms``; HALF_OPEN lets one probe through."""

    state: CircuitState
    until_ms: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Shared state as one task sees it: immutable, taken at one instant.

    ``balances`` is keyed by ``Counter.key``, ``benches`` by ``Model.key``, ``Model.account_key``
    or provider, ``circuits`` by provider or ``Model.key``. What is missing is in good order.
    """

    balances: Mapping[str, Balance] = field(default_factory=dict)
    benches: Mapping[str, Bench] = field(default_factory=dict)
    circuits: Mapping[str, Circuit] = field(default_factory=dict)
    output_means: Mapping[str, int] = field(default_factory=dict)
    """Running mean of output tokens by ``Model.key``, for token windows (R13)."""
    busy: Mapping[str, int] = field(default_factory=dict)
    """Calls in flight here by provider or account, where their number is limited."""
    disabled: Mapping[str, Bench] = field(default_factory=dict)
    """Those of ``benches`` that operators set, each under the key of what it sets aside."""


class VerdictClass(Enum):
    """Why a model is out, by class (R5)."""

    OK = "ok"
    RATE = "rate"
    MONEY = "money"
    DOWN = "down"
    UNFIT = "unfit"
    POLICY = "policy"
    HELD = "held"
    REJECTED = "rejected"
    TRIED = "tried"
    TRIGGER_NOT_MET = "trigger_not_met"
    """Of a whole layer that was passed over for its trigger (R6)."""


class Cause(Enum):
    """The precise reason inside a class; closed, so that programs can branch on it."""

    NONE = "none"
    WINDOW_FULL = "window_full"
    CAP_SPENT = "cap_spent"
    HELD = "held"
    NEVER_FITS = "never_fits"
    SPEND_LIMIT = "spend_limit"
    COOLDOWN = "cooldown"
    DISABLED = "disabled"
    CIRCUIT_OPEN = "circuit_open"
    NO_KEY = "no_key"
    NOT_BUILT = "not_built"
    CONTEXT_TOO_SMALL = "context_too_small"
    FEATURE_MISSING = "feature_missing"
    CAPABILITY_MISSING = "capability_missing"
    CONSTRAINT = "constraint"
    CONSENT = "consent"
    FREE_ONLY = "free_only"
    DATA_POLICY = "data_policy"
    GATE_FAILED = "gate_failed"
    FAILED_HERE = "failed_here"
    TRIGGER_NOT_MET = "trigger_not_met"


class Verdict(NamedTuple):
    """What stands for or against one model for one task, at one instant.

    ``until_ms`` is when it may change by itself: None when not known, NEVER_MS when never.
    ``failure`` is set for cooldowns and tried models, ``counter`` and ``used`` where a counter is
    in the way: the words for it are made only when somebody reads them.
    """

    cls: VerdictClass
    cause: Cause = Cause.NONE
    note: str = ""
    until_ms: int | None = None
    failure: FailureClass | None = None
    counter: Counter | None = None
    used: int = 0

    @property
    def detail(self) -> str:
        """Say it in words."""
        if self.note or self.counter is None:
            return self.note
        said = words.used(self.counter, self.used)
        return said if self.used >= self.counter.limit else f"{said}, which leaves too little"


OK = Verdict(VerdictClass.OK)


class Denial(NamedTuple):
    """Why the store gave no room on one model: the counter, and whether holds alone are to blame.

    ``never_fits``: the amount is larger than the whole window or cap (R14).
    """

    position: int
    """``Model.position``."""
    counter_key: str
    balance: Balance
    amount: int
    held_only: bool
    never_fits: bool
