"""Operators set models aside: for everyone, beside cooldowns, over restarts, and told."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from escalade_server.core.catalog import Catalog, Model
from escalade_server.core.commands import SetBench
from escalade_server.core.facts import EscalationReason
from escalade_server.core.failure import MINUTE_MS, NEVER_MS, FailureClass
from escalade_server.core.nominal import nominal_view
from escalade_server.core.policy import judge
from escalade_server.core.rules import Rules
from escalade_server.core.standing import Bench, Cause, Standing, Verdict, VerdictClass
from escalade_server.core.walk import reason_of
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.controls import Act, ModelAction, ModelDesk
from escalade_server.engine.entropy import SystemEntropy
from escalade_server.engine.feed import Feed
from escalade_server.engine.health import Health
from escalade_server.engine.lookout import Lookout
from escalade_server.engine.news import Entry, ModelNews, Place
from escalade_server.engine.waiting import WaitingRoom
from escalade_server.stores.sqlite import SqliteStore
from tests.core.builders import three_layers
from tests.stores.world import NOW_MS, HandClock

DISABLE, ENABLE, CLEAR = ModelAction.DISABLE, ModelAction.ENABLE, ModelAction.CLEAR_COOLDOWN
MINI, FLASH = Place(provider="openai", model="mini"), Place(provider="google", model="flash")
SOON_MS = NOW_MS + MINUTE_MS


@dataclass
class World:
    """An engine's parts, and a desk over them; the store is real."""

    path: Path | None = None
    catalog: Catalog = field(default_factory=three_layers)
    clock: HandClock = field(default_factory=HandClock)
    told: list[Entry] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)

    async def open(self) -> "World":
        self.store = SqliteStore(self.path, self.clock, Calendar())
        self.health = Health(Rules())
        self.room = WaitingRoom(self.clock, SystemEntropy())
        self.feed = Feed(self.store, self.clock)
        self.store.follow(self.told.extend, {})
        await self.store.open(())
        self.desk = ModelDesk(self, self.feed, self.acts.append)
        self.lookout = Lookout(self, self.feed)
        return self

    def standing(self) -> Standing:
        now_ms = self.clock.now_ms()
        standing = self.store.standing(now_ms)
        return Standing(
            standing.balances,
            standing.benches,
            self.health.circuits(now_ms),
            disabled=standing.disabled,
        )

    def verdict(self, name: str) -> Verdict:
        view = nominal_view(self.catalog, self.standing(), self.clock.now_ms())
        layer, model = next(
            (layer, model)
            for layer in self.catalog.layers
            for model in layer.models
            if model.id == name
        )
        return judge(model, layer, view)[0]

    def ok(self) -> list[str]:
        """Name the models that can be used."""
        models: tuple[Model, ...] = self.catalog.models
        return [m.id for m in models if self.verdict(m.id).cls is VerdictClass.OK]

    async def news(self) -> list[ModelNews]:
        """Answer what was told of models, once."""
        await self.store.entries(0, 0)
        await asyncio.sleep(0)
        found = [entry.news for entry in self.told if isinstance(entry.news, ModelNews)]
        self.told.clear()
        return found


@pytest.fixture
async def world() -> World:
    return await World().open()


async def test_a_model_is_set_aside_with_its_reason_until_it_is_taken_in_again(
    world: World,
) -> None:
    found = await world.desk.act(DISABLE, MINI, "alice", note=" bad answers ")
    assert [model.id for model in found] == ["mini"]
    verdict = world.verdict("mini")
    assert (verdict.cls, verdict.cause) == (VerdictClass.DOWN, Cause.DISABLED)
    assert verdict.detail == "set aside by operator alice: bad answers"
    assert verdict.until_ms == NEVER_MS
    assert reason_of(verdict) is EscalationReason.OUTAGE
    assert world.ok() == ["flash", "glm", "m2", "gpt"]

    await world.desk.act(ENABLE, MINI, "bob")
    assert world.ok() == ["mini", "flash", "glm", "m2", "gpt"]
    assert [(act.who, act.action, act.models) for act in world.acts] == [
        ("alice", DISABLE, ("openai/default/mini",)),
        ("bob", ENABLE, ("openai/default/mini",)),
    ]
    assert [(news.reason, news.detail) for news in await world.news()] == [
        ("disabled", "set aside by operator alice: bad answers"),
        ("", "taken in again by operator bob"),
    ]


async def test_a_provider_is_set_aside_whole_and_an_account_is_part_of_it(world: World) -> None:
    await world.desk.act(DISABLE, Place(provider="openai"), "")
    assert world.ok() == ["flash", "glm", "m2"]
    await world.desk.act(ENABLE, Place(provider="openai"), "")
    await world.desk.act(DISABLE, Place(provider="openai", account="default"), "")
    assert world.ok() == ["flash", "glm", "m2"]
    await world.desk.act(ENABLE, Place(provider="openai"), "")
    assert world.ok() == ["mini", "flash", "glm", "m2", "gpt"]


async def test_a_layer_chooses_among_models(world: World) -> None:
    await world.desk.act(DISABLE, Place(layer="premium", provider="openai"), "")
    assert world.ok() == ["mini", "flash", "glm", "m2"]
    assert await world.desk.act(DISABLE, Place(layer="free", model="gpt"), "") == ()
    assert len(world.acts) == 1


async def test_an_end_comes_by_itself_is_told_and_may_be_moved(world: World) -> None:
    await world.desk.act(DISABLE, MINI, "", until_ms=SOON_MS + MINUTE_MS)
    await world.desk.act(DISABLE, MINI, "", until_ms=SOON_MS)  # sooner: the last word counts
    assert world.verdict("mini").until_ms == SOON_MS
    world.lookout.look()
    assert [news.reason for news in await world.news()] == ["disabled"] * 2

    world.clock.at_ms = SOON_MS
    assert "mini" in world.ok()
    world.lookout.look()
    [over] = await world.news()
    assert over.detail == "the model is no longer set aside: the time that an operator set is over"
    assert (over.place.provider, over.place.model) == ("openai", "mini")


async def test_a_cooldown_neither_ends_what_an_operator_set_aside_nor_is_ended(
    world: World,
) -> None:
    key = "google/default/flash"
    cold = Bench(SOON_MS, FailureClass.RATE_SHORT, "429")
    await world.store.bench(SetBench(key, cold), NOW_MS)
    await world.desk.act(DISABLE, FLASH, "", until_ms=SOON_MS - 1)
    assert world.verdict("flash").cause is Cause.DISABLED
    world.clock.at_ms = SOON_MS - 1
    assert world.verdict("flash").cause is Cause.COOLDOWN
    await world.desk.act(DISABLE, FLASH, "")
    await world.store.bench(SetBench(key, Bench(0, cold.cls, "")), SOON_MS)
    assert world.verdict("flash").cause is Cause.DISABLED
    await world.desk.act(CLEAR, FLASH, "")
    assert world.verdict("flash").cause is Cause.DISABLED


async def test_clearing_ends_cooldowns_of_every_scope_and_circuits(world: World) -> None:
    for key in ("openai/default/mini", "openai/default", "openai", "openai of agent bob"):
        bench = Bench(NEVER_MS, FailureClass.AUTH, "401")
        await world.store.bench(SetBench(key, bench), NOW_MS)
    for _ in range(20):
        world.health.report("openai", ok=False, now_ms=NOW_MS)
    assert world.verdict("mini").cls is VerdictClass.DOWN
    assert world.health.circuits(NOW_MS)

    await world.desk.act(CLEAR, MINI, "alice")
    assert world.verdict("mini").cls is VerdictClass.OK
    assert not world.standing().benches
    assert not world.health.circuits(NOW_MS)


async def test_what_is_set_aside_stays_so_over_a_restart(tmp_path: Path) -> None:
    first = await World(tmp_path / "s.db").open()
    await first.desk.act(DISABLE, MINI, "alice", note="why")
    await first.store.close()
    second = await World(tmp_path / "s.db").open()
    assert second.verdict("mini").detail == "set aside by operator alice: why"
    await second.store.close()
