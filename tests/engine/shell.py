"""An engine on virtual time, with a store, a provider and a caller that do as they are told."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from escalade_server.checks.gates import AnswerGates
from escalade_server.core import ledger
from escalade_server.core.catalog import Catalog, Counter, Model
from escalade_server.core.commands import CallModel, Candidate, Reserve, SetBench, Settle
from escalade_server.core.events import (
    ChunkArrived,
    Delta,
    Finish,
    Repeated,
    ReservationDenied,
    Reserved,
    TextDelta,
)
from escalade_server.core.facts import Fact, Outcome
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.standing import Balance, Bench, Standing
from escalade_server.core.tally import Tally
from escalade_server.core.task import Basis, FinishReason, Request, Usage
from escalade_server.engine.engine import Engine
from escalade_server.engine.ports import (
    Booking,
    Kept,
    Provider,
    ProviderFailure,
    RawEvidence,
    Spend,
    StoreError,
)
from tests.core.builders import DAY, T0

STORE_S = 0.001
USAGE = Usage(20, 5)
EMPTY = Balance("today", 0, 0, DAY)
Step = ChunkArrived | Exception | float
"""Of a provider's script: yield it, raise it, or sleep so many seconds."""


class LoopClock:
    """Wall time that follows the event loop's."""

    def now_ms(self) -> int:
        return T0 + round(asyncio.get_running_loop().time() * 1000)


class Serial:
    """Task ids that are counted instead of drawn."""

    def __init__(self) -> None:
        self.drawn = 0

    def task_id(self) -> str:
        self.drawn += 1
        return f"{self.drawn:032x}"

    @staticmethod
    def jitter_ms(limit_ms: int) -> int:
        return limit_ms // 2


class FakeStore:
    """Keeps balances with the core's own arithmetic; ``fail`` decides which calls fail."""

    def __init__(self, fail: Callable[[int], bool] = lambda _: False) -> None:
        self.fail = fail
        self.calls = 0
        self.balances: dict[str, Balance] = {}
        self.benches: dict[str, Bench] = {}
        self.open_ids: dict[str, ledger.Amounts] = {}
        self.candidates: dict[str, Candidate] = {}
        self.orders: dict[str, Reserve] = {}
        self.settles: list[Settle] = []
        self.tallies: list[Tally] = []
        self.repeated: Repeated | None = None
        """While set, every request id is answered so."""
        self.hanging: asyncio.Future[None] | None = None
        """While set, no call is served."""

    async def open(self, counters: Sequence[Counter]) -> None: ...

    async def adopt(self, counters: Sequence[Counter], marks: object = None) -> None: ...

    async def close(self) -> None: ...

    def standing(self, now_ms: int) -> Standing:
        return Standing(dict(self.balances), dict(self.benches))

    def spends(self, now_ms: int) -> tuple[Spend, ...]:
        return ()

    async def _serve(self) -> None:
        self.calls += 1
        number = self.calls
        await asyncio.sleep(STORE_S)
        if self.hanging is not None:
            await self.hanging
        if self.fail(number):
            raise StoreError(f"call {number} failed")

    async def reserve(self, order: Reserve, now_ms: int) -> Reserved | ReservationDenied | Repeated:
        await self._serve()
        if self.repeated is not None:
            return self.repeated._replace(attempt=order.attempt)
        denials = []
        for candidate in order.candidates:
            counters = candidate.counters
            why = ledger.denial(candidate, [self.balances.get(c.key, EMPTY) for c in counters])
            if why is not None:
                denials.append(why)
                continue
            for counter in counters:
                row = self.balances.get(counter.key, EMPTY)
                self.balances[counter.key] = ledger.hold(row, candidate.amount(counter))
            self.open_ids[order.reservation_id] = ledger.bounds(candidate)
            self.candidates[order.reservation_id] = candidate
            self.orders[order.reservation_id] = order
            return Reserved(order.attempt, candidate.model.position, tuple(denials))
        return ReservationDenied(order.attempt, tuple(denials), self.standing(now_ms))

    async def settle(self, order: Settle, now_ms: int) -> None:
        await self._serve()
        held = self.open_ids.pop(order.reservation_id, None)
        if held is None:
            return  # released, and never held
        used = ledger.Amounts(order.requests, order.tokens, order.nanos)
        for counter in self.candidates[order.reservation_id].counters:
            at = ledger.FIELD[counter.unit]
            row = self.balances[counter.key]
            self.balances[counter.key] = ledger.settle(row, held[at], used[at])
        self.settles.append(order)

    async def tally(self, order: Tally, now_ms: int) -> None:
        self.tallies.append(order)

    async def find(self, reservation_id: str) -> Kept | None:
        await self._serve()
        order = self.orders.get(reservation_id)
        if order is None:
            return None
        candidate = self.candidates[reservation_id]
        kept = Kept(
            reservation_id, candidate.model.key, order.agent, order.routed, Booking.OPEN, "", T0,
            candidate.tokens, candidate.nanos,
        )  # fmt: skip
        for settle in self.settles:
            if settle.reservation_id == reservation_id:
                state = Booking.ASSUMED if settle.basis is Basis.RESERVED else Booking.SETTLED
                kept = kept._replace(
                    state=state, digest=settle.digest, tokens=settle.tokens, nanos=settle.nanos
                )
        return kept

    async def bench(self, order: SetBench, now_ms: int) -> None:
        await self._serve()
        self.benches[order.key] = order.bench


class FakeProviders:
    """Answers each call by the next script of its model, else with a short answer."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[list[Step]]] = {}
        self.called: list[str] = []
        self.reading = 0
        self.cancelled_at: list[float] = []
        self.close_s = 0.0
        """How long a cancelled call takes to close its connection."""

    def of(self, model: Model) -> Provider:
        return self

    async def call(self, order: CallModel, request: Request) -> AsyncGenerator[ChunkArrived, None]:
        name = order.candidate.model.id
        self.called.append(name)
        scripts = self.scripts.get(name)
        self.reading += 1
        try:
            for step in scripts.pop(0) if scripts else answers(order.attempt):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield replace(step, attempt=order.attempt)
        except asyncio.CancelledError:
            self.cancelled_at.append(asyncio.get_running_loop().time())
            if self.close_s:
                await asyncio.sleep(self.close_s)
            raise
        finally:
            self.reading -= 1


class FakeClassifier:
    """Takes every piece of evidence for an outage."""

    def classify(self, model: Model, evidence: RawEvidence, now_ms: int) -> Failure:
        return Failure(FailureClass.OUTAGE, f"{model.id} said {evidence.http_status}")


class FakeObserver:
    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.outcomes: list[Outcome] = []

    def fact(self, task_id: str, request: Request, fact: Fact, now_ms: int) -> None:
        self.facts.append(fact)

    def ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class FakeCaller:
    """Remembers all it is told, and leaves at its ``leaves_at``-th hearing."""

    def __init__(self, leaves_at: int = 0) -> None:
        self.heard: list[object] = []
        self.text = ""
        self.outcome: Outcome | None = None
        self.leaves_at = leaves_at
        self.leave: Callable[[], None] = lambda: None
        self.room = asyncio.Event()
        self.room.set()

    def _hear(self, what: object) -> None:
        assert self.outcome is None, "nothing follows the ending"
        self.heard.append(what)
        if len(self.heard) == self.leaves_at:
            asyncio.get_running_loop().call_soon(self._go)

    def _go(self) -> None:
        self.leave()

    def announce(self, fact: Fact) -> None:
        self._hear(fact)

    def deliver(self, attempt: int, deltas: tuple[Delta, ...]) -> None:
        self._hear(deltas)
        self.text += "".join(d.text for d in deltas if isinstance(d, TextDelta))

    def end(self, outcome: Outcome) -> None:
        self._hear(outcome)
        self.outcome = outcome

    async def writable(self) -> None:
        await self.room.wait()


class World:
    """One engine and its parts."""

    def __init__(self, catalog: Catalog, *, fail: Callable[[int], bool] = lambda _: False) -> None:
        self.store, self.providers, self.observer = FakeStore(fail), FakeProviders(), FakeObserver()
        self.engine = Engine(
            catalog=catalog, store=self.store, providers=self.providers, clock=LoopClock(),
            entropy=Serial(), observer=self.observer, classifier=FakeClassifier(),
            checker=AnswerGates(),
        )  # fmt: skip

    def start(self, request: Request, *, leaves_at: int = 0) -> FakeCaller:
        caller = FakeCaller(leaves_at)
        run = self.engine.start(request, caller)
        caller.leave = run.leave
        return caller

    async def ask(self, request: Request, *, leaves_at: int = 0) -> FakeCaller:
        """Run one task until its books are closed and its connections are let go."""
        caller = self.start(request, leaves_at=leaves_at)
        await self.rest()
        assert caller.outcome is not None
        return caller

    async def rest(self) -> None:
        """Wait for the end of all tasks, and see that nothing of them is left."""
        await asyncio.wait_for(self.engine.drain(), 7_200)
        await asyncio.sleep(2)
        assert self.engine.running == 0
        assert self.engine.drains == 0
        assert self.providers.reading == 0
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left


def text(*words: str) -> list[Step]:
    return [ChunkArrived(1, (TextDelta(word),)) for word in words]


def finish(usage: Usage | None = USAGE) -> ChunkArrived:
    return ChunkArrived(1, (), Finish(FinishReason.STOP), usage)


def answers(attempt: int) -> list[Step]:
    return [0.01, *text("Hello", " there"), 0.01, finish()]


def fails(cls: FailureClass) -> ProviderFailure:
    return ProviderFailure(Failure(cls, f"said {cls.value}"))
