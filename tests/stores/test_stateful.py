"""The store against a naive model of it, in any order of events: hypothesis searches for a gap.

The model remembers every reservation and adds them all up again for every question.
"""

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from escalade_server.core.catalog import Counter, Period, Unit
from escalade_server.core.events import Reserved
from escalade_server.core.task import Basis
from escalade_server.engine.ports import Store
from tests.stores.servers import Server
from tests.stores.world import HandClock, State, audit, candidate, counter, reserve, settle

T = TypeVar("T")
DAY_MS, SLICE_MS = 86_400_000, 6_000
OCTOBER_MS = 1_790_812_800_000  # 2026-10-01
BEGIN_MS = OCTOBER_MS - DAY_MS // 2
DAILY = counter("daily", 4)
TOKENS = counter("tokens", 700, Unit.TOKENS)
MONEY = counter("money", 1_000, Unit.NANOS, Period.MONTH)
MINUTELY = counter("minutely", 3, period=Period.MINUTE)
COUNTERS = (DAILY, TOKENS, MONEY, MINUTELY)
CHOICES = (
    candidate(DAILY, TOKENS, tokens=300, nanos=100, position=0),
    candidate(MINUTELY, MONEY, tokens=100, nanos=400, position=1),
    candidate(TOKENS, MONEY, tokens=701, nanos=10, position=2),
    candidate(*COUNTERS, tokens=50, nanos=250, position=3),
)


@dataclass
class Held:
    """One reservation as the model remembers it."""

    position: int
    admitted_ms: int
    state: str = "open"
    resolve_at_ms: int = 0
    used: tuple[int, int, int] = (0, 0, 0)

    @property
    def reserved(self) -> tuple[int, int, int]:
        return (1, CHOICES[self.position].tokens, CHOICES[self.position].nanos)

    def assume(self) -> None:
        self.state, self.used = "assumed", self.reserved


def same_window(period: Period, then_ms: int, now_ms: int) -> bool:
    """Whether what was admitted then still counts now."""
    if period is Period.MINUTE:
        return then_ms // SLICE_MS > now_ms // SLICE_MS - 11
    if period is Period.DAY:
        return then_ms // DAY_MS == now_ms // DAY_MS
    return (then_ms < OCTOBER_MS) == (now_ms < OCTOBER_MS)


class StoreMachine(RuleBasedStateMachine):
    """Reserve, settle, let time pass, crash and come back."""

    ids = Bundle("ids")

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "state.db"
        self.runner = asyncio.Runner()
        self.clock = HandClock(BEGIN_MS)
        self.model: dict[str, Held] = {}
        self.store: Store = self.wait(self.open())

    def wait(self, answer: Awaitable[T]) -> T:
        async def waiting() -> T:
            return await answer

        return self.runner.run(waiting())

    def ask(self, what: str, *arguments: object) -> object:
        """Call the store inside the loop, as the engine does."""

        async def asking() -> object:
            return await getattr(self.store, what)(*arguments, self.clock.at_ms)

        return self.runner.run(asking())

    async def open(self) -> Store:
        return await State(self.path, self.clock).open(*COUNTERS)

    def figure(self, of: Counter) -> tuple[int, int]:
        column = [Unit.REQUESTS, Unit.TOKENS, Unit.NANOS].index(of.unit)
        spent = held = 0
        for each in self.model.values():
            touched = of in CHOICES[each.position].model.counters
            if touched and same_window(of.period, each.admitted_ms, self.clock.at_ms):
                if each.state in {"open", "uncertain"}:
                    held += each.reserved[column]
                else:
                    spent += each.used[column]
        return spent, held

    def sweep(self) -> None:
        for each in self.model.values():
            if each.state == "uncertain" and each.resolve_at_ms <= self.clock.at_ms:
                each.assume()

    @rule(
        target=ids,
        name=st.integers(0, 30),
        order=st.lists(st.sampled_from(range(4)), min_size=1, max_size=4, unique=True),
    )
    def reserve(self, name: int, order: list[int]) -> object:
        id_ = f"id{name}"
        self.sweep()
        expected: int | None = None
        denied: list[tuple[int, bool, bool]] = []
        if id_ in self.model:
            expected = self.model[id_].position
        else:
            for position in order:
                verdict = self.verdict(position)
                if verdict is None:
                    expected = position
                    self.model[id_] = Held(position, self.clock.at_ms)
                    break
                denied.append((position, *verdict))
        answer = self.ask("reserve", reserve(id_, *(CHOICES[position] for position in order)))
        if isinstance(answer, Reserved):
            assert answer.position == expected
        else:
            assert expected is None
            found = [(d.position, d.held_only, d.never_fits) for d in answer.denials]  # type: ignore[attr-defined]
            assert found == denied
            return multiple()
        return id_

    def verdict(self, position: int) -> tuple[bool, bool] | None:
        """Answer (only held, never fits) when there is no room."""
        found: list[tuple[bool, bool]] = []
        for of in CHOICES[position].model.counters:
            amount = CHOICES[position].amount(of)
            spent, held = self.figure(of)
            if amount > of.limit:
                found.append((False, True))
            elif spent + held + amount > of.limit:
                found.append((spent + amount <= of.limit, False))
        if not found:
            return None
        if any(never for _, never in found):
            return False, True
        return all(only_held for only_held, _ in found), False

    @rule(
        id_=ids,
        part=st.integers(0, 100),
        basis=st.sampled_from([Basis.REPORTED, Basis.ESTIMATED, Basis.RESERVED]),
    )
    def settle(self, id_: str, part: int, basis: Basis) -> None:
        each = self.model[id_]
        requests, tokens, nanos = each.reserved
        if basis is not Basis.RESERVED:
            tokens, nanos = tokens * part // 100, nanos * part // 100
        self.sweep()
        self.ask("settle", settle(id_, nanos, tokens, requests, basis))
        if each.state != "settled":
            each.used = (requests, tokens, nanos)
            each.state = "assumed" if basis is Basis.RESERVED else "settled"

    @rule(id_=ids, wait_ms=st.integers(0, 200_000))
    def doubt(self, id_: str, wait_ms: int) -> None:
        self.sweep()
        until = self.clock.at_ms + wait_ms
        self.ask("settle", settle(id_, 0, 0, 0, Basis.ESTIMATED, until))
        each = self.model[id_]
        if each.state in {"open", "uncertain"}:
            each.state, each.resolve_at_ms = "uncertain", until

    @rule(
        pass_ms=st.one_of(st.integers(0, 20_000), st.integers(60_000, 70_000), st.just(DAY_MS // 3))
    )
    def time_passes(self, pass_ms: int) -> None:
        """Across the end of a day and of a month, but not beyond what a store remembers."""
        self.clock.at_ms = min(self.clock.at_ms + pass_ms, BEGIN_MS + DAY_MS)

    @rule()
    def restart(self) -> None:
        self.wait(self.store.close())
        self.store = self.wait(self.open())
        self.sweep()
        for each in self.model.values():
            if each.state == "open":
                each.assume()

    @invariant()
    def figures_agree(self) -> None:
        self.sweep()
        self.ask("settle", settle("nobody"))  # lets the store look at the time
        spends = {spend.counter: spend for spend in self.store.spends(self.clock.at_ms)}
        for of in COUNTERS:
            assert (spends[of].spent, spends[of].held) == self.figure(of), of.key
            assert spends[of].spent + spends[of].held <= of.limit
            assert spends[of].ends_ms > self.clock.at_ms

    def teardown(self) -> None:
        self.wait(self.store.close())
        self.runner.close()
        try:
            audit(self.path)
        finally:
            self.folder.cleanup()


class LeasedMachine(StoreMachine):
    """The same with leased chunks; a figure may be off the total only by what a chunk keeps."""

    async def open(self) -> Store:
        journal = self.path.with_name("leases")
        return await State(self.path, self.clock, journal=journal).open(*COUNTERS)


class RedisMachine(StoreMachine):
    """The same over Redis."""

    url: ClassVar = ""

    async def open(self) -> Store:
        return await State(None, self.clock, url=self.url, name=str(self.path)).open(*COUNTERS)

    def teardown(self) -> None:
        self.wait(self.store.close())
        self.runner.close()
        self.folder.cleanup()


@pytest.fixture(autouse=True, scope="module")
def _redis_of_the_machine(redis: Server) -> None:
    RedisMachine.url = redis.url


profile = settings()
for machine, share in ((StoreMachine, 2), (LeasedMachine, 2), (RedisMachine, 4)):
    machine.TestCase.settings = settings(
        profile,
        max_examples=profile.max_examples // share,
        stateful_step_count=30,
        deadline=None,
    )
TestStore = StoreMachine.TestCase
TestLeasedStore = LeasedMachine.TestCase
TestRedisStore = RedisMachine.TestCase
