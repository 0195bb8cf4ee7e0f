"""How the world answers: what a provider sends and when, and how a store serves an order.

A script depends on the order and the instant alone, never on who asked before: so the same script
can be played by the simulation and by the asyncio engine.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from escalade_server.core.commands import CallModel, Reserve, SetBench, Settle
from escalade_server.core.events import (
    AttemptFailed,
    CallerLeft,
    ChunkArrived,
    LeaseExtended,
    OutcomeReported,
    ReportsEnded,
    StreamEnded,
)
from escalade_server.core.facts import Selected
from escalade_server.core.task import Request

News = ChunkArrived | StreamEnded | AttemptFailed
Report = OutcomeReported | LeaseExtended | ReportsEnded | CallerLeft


class Step(NamedTuple):
    """So long after the step before it, this happens. A script that just stops is silence."""

    delay_us: int
    news: News


class Word(NamedTuple):
    """So long after the step before it, a caller that calls models itself says this."""

    delay_us: int
    report: Report


class Now(NamedTuple):
    """An instant: of the run, and of the wall."""

    us: int
    ms: int


class Fault(Enum):
    """How an order to a store goes wrong."""

    NONE = "none"
    REFUSED = "refused"
    """Answered with an error, and nothing was done."""
    LOST = "lost"
    """Done, and answered with an error all the same (S13)."""


class Service(NamedTuple):
    """How a store serves one order: how long before it is done, and before it is answered."""

    before_us: int
    after_us: int
    fault: Fault = Fault.NONE


class Upstream(Protocol):
    """Providers, and callers that call models themselves."""

    def answer(self, order: CallModel, request: Request, now: Now) -> Sequence[Step]:
        """Say how a call goes."""
        ...

    def reports(self, told: Selected, request: Request, now: Now) -> Sequence[Word]:
        """Say what a caller reports of the model that it was told to call."""
        ...


class Weather(Protocol):
    """The state that a store is in."""

    def service(self, order: Reserve | Settle | SetBench, now: Now) -> Service:
        """Say how an order is served."""
        ...

    def is_down(self, now: Now) -> bool:
        """Tell whether nothing can be done at all."""
        ...
