"""Plays one cascade by hand: each call is one event, the answer is what the cascade ordered."""

from typing import TypeVar

from escalade_server.core.cascade import Cascade
from escalade_server.core.catalog import Catalog
from escalade_server.core.commands import (
    Announce,
    CallModel,
    CancelCall,
    Command,
    Deliver,
    End,
    Reserve,
    SetBench,
    Settle,
)
from escalade_server.core.events import (
    AttemptFailed,
    CallerLeft,
    ChunkArrived,
    Event,
    Finish,
    ReservationDenied,
    Reserved,
    Settled,
    Started,
    StreamEnded,
    TextDelta,
    TimePassed,
)
from escalade_server.core.facts import Fact, Failed, Finished, Outcome
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.gates import Demands, GateFailure
from escalade_server.core.standing import Balance, Bench, Denial, Standing
from escalade_server.core.task import Delivery, FinishReason, Request, Text, Usage
from escalade_server.core.trace import Answer
from tests.core.builders import DAY, T0, request, three_layers

T = TypeVar("T")
USED = Usage(100, 10)


class Picky:
    """``Checker`` that fails what a filter cut, and each answer in which the word "bad" is."""

    def check(self, request: Request, answer: Answer, demands: Demands) -> GateFailure | None:
        del request
        said = "".join(part.text for part in answer.parts if isinstance(part, Text))
        bad = "bad" in said or answer.finish is FinishReason.CONTENT_FILTER
        return GateFailure(demands.held_by[0], "was bad") if bad else None


class Play:
    """A cascade, its clock and everything it has ordered so far."""

    def __init__(self, catalog: Catalog, request: Request) -> None:
        self.cascade = Cascade(catalog, request, "t", Picky())
        self.now = T0
        self.log: list[Command] = []
        self.reserved_at: list[int] = []
        self.standing = Standing()

    def feed(self, event: Event) -> list[Command]:
        """Feed one event, and the time that the cascade asks for at once, as the engine does."""
        orders = list(self.cascade.handle(event, now_ms=self.now))
        while (wake := self.cascade.wake_at_ms) is not None and wake <= self.now:
            self._remember(orders)
            orders += self.cascade.handle(TimePassed(self.standing), now_ms=self.now)
        self._remember(orders)
        self.log += orders
        self.reserved_at += [self.now for o in orders if isinstance(o, Reserve)]
        return orders

    def _remember(self, orders: list[Command]) -> None:
        benches: dict[str, Bench] = dict(self.standing.benches)
        benches.update({o.key: o.bench for o in orders if isinstance(o, SetBench)})
        self.standing = Standing(self.standing.balances, benches, self.standing.circuits)

    def start(self, standing: Standing | None = None) -> list[Command]:
        self.standing = standing or Standing()
        return self.feed(Started(self.standing))

    def grant(self, place: int = 0, denials: tuple[Denial, ...] = ()) -> list[Command]:
        order = self.last(Reserve)
        position = order.candidates[place].model.position
        return self.feed(Reserved(order.attempt, position, denials))

    def deny(self, *denials: Denial) -> list[Command]:
        return self.feed(ReservationDenied(self.last(Reserve).attempt, denials, self.standing))

    def says(self, text: str) -> list[Command]:
        return self.feed(ChunkArrived(self.attempt, (TextDelta(text),)))

    def finishes(
        self, usage: Usage | None = USED, reason: FinishReason = FinishReason.STOP
    ) -> list[Command]:
        orders = self.feed(ChunkArrived(self.attempt, (), Finish(reason), usage))
        return orders + self.feed(StreamEnded(self.attempt))

    def ends(self) -> list[Command]:
        return self.feed(StreamEnded(self.attempt))

    def fails(self, cls: FailureClass, reset_in_ms: int | None = None) -> list[Command]:
        reset = None if reset_in_ms is None else self.now + reset_in_ms
        return self.feed(AttemptFailed(self.attempt, Failure(cls, cls.value, reset_at_ms=reset)))

    def settled(self) -> list[Command]:
        return self.feed(Settled(self.last(Settle).attempt, self.standing))

    def leaves(self) -> list[Command]:
        return self.feed(CallerLeft())

    def passes(self, ms: int) -> list[Command]:
        """Let time pass, waking the cascade at each instant it asks for."""
        until, orders = self.now + ms, list[Command]()
        while (wake := self.cascade.wake_at_ms) is not None and wake <= until:
            self.now = max(self.now, wake)
            orders += self.feed(TimePassed(self.standing))
        self.now = until
        return orders

    @property
    def attempt(self) -> int:
        return self.last(CallModel).attempt

    def last(self, kind: type[T]) -> T:
        return next(c for c in reversed(self.log) if isinstance(c, kind))

    @property
    def facts(self) -> list[Fact]:
        return [c.fact for c in self.log if isinstance(c, Announce)]

    def told(self, kind: type[T]) -> list[T]:
        return [f for f in self.facts if isinstance(f, kind)]

    @property
    def outcome(self) -> Outcome | None:
        return next((c.outcome for c in self.log if isinstance(c, End)), None)

    @property
    def finished(self) -> Finished:
        assert isinstance(self.outcome, Finished), self.outcome
        return self.outcome

    @property
    def failed(self) -> Failed:
        assert isinstance(self.outcome, Failed), self.outcome
        return self.outcome

    @property
    def text(self) -> str:
        deltas = [d for c in self.log if isinstance(c, Deliver) for d in c.deltas]
        return "".join(d.text for d in deltas if isinstance(d, TextDelta))

    def cancelled(self) -> list[CancelCall]:
        return [c for c in self.log if isinstance(c, CancelCall)]


def full(*keys: str, spent: int = 50) -> Standing:
    return Standing({key: Balance("today", spent, 0, DAY) for key in keys})


FREE_FULL = full("requests/day:openai/default/mini", "requests/day:google/default/flash")


def begun(req: Request | None = None, cat: Catalog | None = None) -> Play:
    play = Play(cat or three_layers(), req or request())
    play.start()
    return play


def calling(req: Request | None = None, cat: Catalog | None = None) -> Play:
    play = begun(req, cat)
    play.grant()
    return play


def with_delivery(delivery: Delivery) -> Request:
    base = request()
    return Request(
        base.id, base.task, base.messages, delivery=delivery, deadline_ms=base.deadline_ms
    )
