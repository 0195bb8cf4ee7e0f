"""What is kept of each day's use, and the report that is made of it (R15).

Days are ISO dates in the zone of the reports. Money is in nano-dollars.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

KEPT_DAYS = 400
"""How long each day's use, and its report, is kept."""


class Use(NamedTuple):
    """Sums of attempts and tasks.

    ``input_tokens`` include those cached and written to the cache, ``output_tokens`` reasoning.
    ``assumed_tokens`` were booked without being told their split: with input and output they are
    what token windows were charged. ``estimated_nanos`` is the part of the list value that no
    provider or caller reported.
    """

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    assumed_tokens: int = 0
    list_nanos: int = 0
    charged_nanos: int = 0
    estimated_nanos: int = 0
    tasks: int = 0
    failed: int = 0
    fallbacks: int = 0
    waits: int = 0
    waited_ms: int = 0

    def plus(self, other: "Use") -> "Use":
        """Add two up."""
        return Use(*[mine + its for mine, its in zip(self, other, strict=True)])

    @property
    def tokens(self) -> int:
        """What token windows were charged."""
        return self.input_tokens + self.output_tokens + self.assumed_tokens


class UsageRow(NamedTuple):
    """The use of one model for one agent and type of task, over a span of days.

    Tasks stand with the model that answered them; without an answer, ``layer`` and ``model`` are
    empty. ``model`` is ``Model.key``.
    """

    layer: str
    model: str
    agent: str
    task_type: str
    use: Use


class ChangeCount(NamedTuple):
    """How often tasks went from one layer to another for a reason (R20)."""

    from_layer: str
    to_layer: str
    reason: str
    times: int


class UsageTables(NamedTuple):
    """Everything kept of a span of days."""

    rows: tuple[UsageRow, ...] = ()
    days: tuple[tuple[str, Use], ...] = ()
    """By day, in order; days without any use are absent."""
    changes: tuple[ChangeCount, ...] = ()
    baselines: tuple[tuple[str, int], ...] = ()
    """What the answers would have cost on single models, named ``provider/model``."""
    first_day: str = ""
    """Of all that is kept; empty when nothing is."""


class UsageStore(Protocol):
    """Reads what the books have counted, and keeps reports. All methods raise ``StoreError``.

    What a store must do for it, in the transaction of each booking: add what is booked to the
    row of (day of admission, layer, model, agent, task type), with the model and layer that were
    reserved. A correction adds the difference to that row, what is booked in full for want of
    news (a dead owner, an end of doubt) is added whole, and the tally of a settlement is added
    to the day of its reservation. Nothing is read for it: all of it is sums. On Redis that is one
    HINCRBY a field in the script that settles, in a hash for each day with an expiry.
    """

    def usage(self, begin: str, end: str, agent: str | None = None) -> Awaitable[UsageTables]:
        """Sum up the days from ``begin`` to the day before ``end``; of one agent, or of all."""
        ...

    def keep_report(self, day: str, report: str, now_ms: int) -> Awaitable[bool]:
        """Keep the report of a day as it was made; False: there is one, which stays."""
        ...

    def unreported(self, begin: str, end: str) -> Awaitable[tuple[str, ...]]:
        """List the days of a span that saw any use and have no report yet, in order."""
        ...


class Span(NamedTuple):
    """The days of a report, as instants in Unix ms and as dates; ``end`` is the day after."""

    begin: str
    end: str
    begins_ms: int
    ends_ms: int


class Line(NamedTuple):
    """The use under one name."""

    name: str
    use: Use


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The use of a day or a month. ``by_*`` are in order of list value, ``days`` of date."""

    period: str
    """A day as YYYY-MM-DD, or a month as YYYY-MM."""
    begins_ms: int
    ends_ms: int
    time_zone: str
    complete: bool
    """Over for a day, so that no late report changes it any more (R32)."""
    total: Use
    layers: tuple[Line, ...] = ()
    models: tuple[Line, ...] = ()
    agents: tuple[Line, ...] = ()
    task_types: tuple[Line, ...] = ()
    days: tuple[Line, ...] = ()
    changes: tuple[ChangeCount, ...] = ()
    fees_nanos: int = 0
    """Flat fees, which fall on the first day of each calendar month."""
    baselines: tuple[tuple[str, int], ...] = ()
    """The first is the strategy's own (R15)."""
    forecast_nanos: int | None = None
    """Cost of the whole month around the period, with fees; None when it is over."""
    plan_nanos: int = 0
    """What a month should cost, with fees; 0 without a plan for the metered layers."""
    tracks_tokens: bool = True
    """False: reports are without columns of tokens (R7)."""
    agent: str | None = None
    """None: of all agents."""


class NoSuchPeriodError(ValueError):
    """There is no such day or month, or nothing is kept of it; says what may be asked for."""


class Reports(Protocol):
    """Makes reports."""

    async def report(self, period: str, agent: str | None) -> UsageReport:
        """Report a day, a month, or for the empty period the current month.

        Raises:
            NoSuchPeriodError: there is nothing to report on.
            StoreError: what is kept cannot be read.
        """
        ...
