"""What the event feed holds: facts in plain words and numbers, without prompt, answer or key.

News name models and counters by text, so that an entry can be read whatever the strategy of the
day is. ``Entry.news`` says of which kind it is; the feed adds when, for whom, and a number.
"""

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from escalade_server.core.catalog import Counter, Model, Period, Unit
from escalade_server.core.facts import AlertKind, EscalationKind, EscalationReason
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import CircuitState, VerdictClass


@dataclass(frozen=True, slots=True)
class Place:
    """A layer, provider, account or model; what does not apply is empty."""

    layer: str = ""
    provider: str = ""
    account: str = ""
    model: str = ""

    def __str__(self) -> str:
        """Name it as people do."""
        return "/".join(part for part in (self.provider, self.model) if part) or self.layer


def place_of(model: Model) -> Place:
    """Name a model."""
    return Place(model.layer, model.provider, model.account, model.id)


@dataclass(frozen=True, slots=True)
class Quota:
    """A counter with its use; ``resets_ms`` ends its window."""

    name: str
    scope: str
    unit: Unit
    period: Period
    limit: int
    spent: int
    held: int
    resets_ms: int


def quota_of(counter: Counter, spent: int, held: int, resets_ms: int) -> Quota:
    """Show a counter."""
    return Quota(
        counter.label or counter.key, counter.scope.value, counter.unit, counter.period,
        counter.limit, spent, held, resets_ms,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class EscalatedNews:
    """A task changed its layer."""

    from_layer: str
    to_layer: str
    reason: EscalationReason
    kind: EscalationKind
    detail: str
    failed_attempt: int | None = None


@dataclass(frozen=True, slots=True)
class FallbackNews:
    """Another model of the layer took over."""

    failed_attempt: int
    origin: Place
    to: Place
    cls: FailureClass
    detail: str


@dataclass(frozen=True, slots=True)
class AlertNews:
    """Something a person should know; ``percent`` and ``quota`` where a mark was passed."""

    kind: AlertKind
    detail: str
    place: Place = Place()
    percent: int | None = None
    quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class ModelNews:
    """The state of a model, an account or a provider changed: a cooldown, a circuit."""

    place: Place
    verdict: VerdictClass
    reason: str
    detail: str
    until_ms: int | None = None
    scope: str = ""
    """What was set aside: model, account or provider; empty without a cooldown."""
    circuit: CircuitState = CircuitState.CLOSED


@dataclass(frozen=True, slots=True)
class WaitNews:
    """A task began or ceased to wait."""

    waiting: bool
    since_ms: int
    earliest_ms: int
    reason: VerdictClass
    rule: str
    position: int = 0
    notify: bool = True
    """A person is to be told of it (R22)."""


@dataclass(frozen=True, slots=True)
class ReportNews:
    """The report of a day is ready; the day as YYYY-MM-DD, and the report in one sentence."""

    day: str
    summary: str = ""


@dataclass(frozen=True, slots=True)
class StrategyNews:
    """The strategy was reloaded, or a bad file was refused and the old one stays in force."""

    applied: bool
    version: str
    sha256: str
    loaded_ms: int
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskNews:
    """A task ended that had escalated, fallen back, waited or failed.

    What went straight is counted in reports and metrics, and would push all else out of the feed.
    """

    answered: bool
    task_type: str
    layers: tuple[str, ...]
    place: Place
    list_nanos: int
    charged_nanos: int
    story: str


News = (
    EscalatedNews
    | FallbackNews
    | AlertNews
    | ModelNews
    | WaitNews
    | ReportNews
    | StrategyNews
    | TaskNews
)


class NewsKind(Enum):
    """By what watchers choose."""

    ESCALATED = "escalated"
    FALLBACK = "fallback"
    ALERT = "alert"
    MODEL_STATE = "model_state"
    WAIT = "wait"
    REPORT = "report"
    STRATEGY = "strategy"
    TASK = "task"


_CLASSES: MappingProxyType[NewsKind, type[News]] = MappingProxyType(
    {
        NewsKind.ESCALATED: EscalatedNews,
        NewsKind.FALLBACK: FallbackNews,
        NewsKind.ALERT: AlertNews,
        NewsKind.MODEL_STATE: ModelNews,
        NewsKind.WAIT: WaitNews,
        NewsKind.REPORT: ReportNews,
        NewsKind.STRATEGY: StrategyNews,
        NewsKind.TASK: TaskNews,
    }
)
_KINDS = MappingProxyType({cls: kind for kind, cls in _CLASSES.items()})


class Once(NamedTuple):
    """Of all entries of this key only the first is kept, until an instant (Unix ms)."""

    key: str
    until_ms: int


class Entry(NamedTuple):
    """One entry of the feed. ``number`` grows with every entry, and is 0 until it is kept."""

    at_ms: int
    news: News
    agent: str = ""
    request_id: str = ""
    trace_id: str = ""
    once: Once | None = None
    number: int = 0

    @property
    def kind(self) -> NewsKind:
        """Say of what kind the news is."""
        return _KINDS[type(self.news)]

    @property
    def layers(self) -> tuple[str, ...]:
        """Name the layers concerned; none means: no layer in particular."""
        news = self.news
        match news:
            case EscalatedNews():
                named: tuple[str, ...] = (news.from_layer, news.to_layer)
            case FallbackNews():
                named = (news.to.layer,)
            case AlertNews() | ModelNews():
                named = (news.place.layer,)
            case TaskNews():
                named = news.layers
            case _:
                named = ()
        return tuple(name for name in named if name)


class Page(NamedTuple):
    """Entries as they are kept, in order.

    ``epoch`` names this feed: numbers of another one mean nothing in it. ``oldest`` is the number
    before the first entry kept, ``newest`` that of the last; ``delivered`` is up to where people
    have been notified.
    """

    epoch: str
    oldest: int
    newest: int
    delivered: int
    entries: tuple[Entry, ...]


def to_json(news: News) -> str:
    """Write news as they are kept."""
    return msgspec.json.encode(news).decode()


def from_json(kind: str, text: str) -> News:
    """Read news that were kept.

    Raises:
        ValueError: a newer version wrote them.
    """
    return msgspec.json.decode(text, type=_CLASSES[NewsKind(kind)])
