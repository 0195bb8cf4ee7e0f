"""What changes in shared state is told once: layers out and back, cooldowns, circuits."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from escalade_server.core.absence import Absence, AbsenceKind
from escalade_server.core.catalog import Catalog
from escalade_server.core.facts import AlertKind
from escalade_server.core.failure import DAY_MS, HOUR_MS, NEVER_MS, FailureClass
from escalade_server.core.standing import Balance, Bench, Circuit, CircuitState, Standing
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.feed import Feed
from escalade_server.engine.lookout import STEADY_MS, Lookout
from escalade_server.engine.news import AlertNews, Entry, ModelNews
from escalade_server.stores.sqlite import SqliteStore
from tests.core.builders import three_layers
from tests.stores.world import NOW_MS, HandClock


@dataclass
class World:
    """What is looked at, set by hand; the store is real, in memory unless it has a path."""

    path: Path | None = None
    catalog: Catalog = field(default_factory=three_layers)
    clock: HandClock = field(default_factory=HandClock)
    now: Standing = field(default_factory=Standing)
    told: list[Entry] = field(default_factory=list)

    def standing(self) -> Standing:
        return self.now

    async def open(self) -> None:
        self.store = SqliteStore(self.path, self.clock, Calendar())
        feed = Feed(self.store, self.clock)
        self.store.follow(self.told.extend)
        await self.store.open(())
        self.lookout = Lookout(self, feed)

    async def look(self, ahead_ms: int = 0) -> list[tuple[str, str]]:
        """Look, and answer what was told."""
        self.clock.at_ms += ahead_ms
        self.told.clear()
        self.lookout.look()
        await self.store.entries(0, 0)
        return [(_kind(entry), _whose(entry)) for entry in self.told]


def _kind(entry: Entry) -> str:
    news = entry.news
    return news.kind.value if isinstance(news, AlertNews) else "model"


def _whose(entry: Entry) -> str:
    news = entry.news
    assert isinstance(news, AlertNews | ModelNews)
    return news.place.layer if isinstance(news, AlertNews) else str(news.place)


@pytest.fixture
async def world() -> World:
    made = World()
    await made.open()
    return made


OUT, BACK = [("exhausted", "free")], [("recovered", "free")]


def bench_free(world: World, until_ms: int) -> None:
    """Set every model of the first layer aside."""
    bench = Bench(until_ms, FailureClass.OUTAGE, "down")
    benches = {model.key: bench for model in world.catalog.layers[0].models}
    world.now = replace(world.now, benches=benches)


async def layers_told(world: World, ahead_ms: int = 0) -> list[tuple[str, str]]:
    return [told for told in await world.look(ahead_ms) if told[0] != "model"]


async def test_a_layer_that_is_out_is_told_once_and_once_that_it_is_back(world: World) -> None:
    assert await world.look() == []
    bench_free(world, NOW_MS + DAY_MS)
    assert await layers_told(world) == OUT
    for _ in range(3):
        assert await layers_told(world, HOUR_MS) == []
    world.now = Standing()
    assert await layers_told(world) == []
    assert await layers_told(world, STEADY_MS) == BACK
    assert await layers_told(world, STEADY_MS) == []


async def test_what_is_out_says_why(world: World) -> None:
    bench_free(world, NOW_MS + DAY_MS)
    await world.look()
    [news] = [entry.news for entry in world.told if isinstance(entry.news, AlertNews)]
    assert news.kind is AlertKind.EXHAUSTED
    assert news.detail.startswith("no model of free can be used: mini: ")


async def test_a_layer_that_flickers_is_told_once_an_hour(world: World) -> None:
    found = []
    for _ in range(30):
        bench_free(world, world.clock.at_ms + 10_000)
        found += await layers_told(world)
        world.now = Standing()
        await layers_told(world, 10_000)
        found += await layers_told(world, STEADY_MS)
    assert sorted(found) == sorted(OUT + BACK)


async def test_one_that_is_well_for_a_moment_is_not_called_back(world: World) -> None:
    bench_free(world, NOW_MS + DAY_MS)
    assert await layers_told(world) == OUT
    for _ in range(3):
        world.now = Standing()
        assert await layers_told(world, STEADY_MS - 1) == []
        bench_free(world, NOW_MS + DAY_MS)
        assert await layers_told(world, 1) == []


async def test_held_is_not_exhausted(world: World) -> None:
    counters = [c for model in world.catalog.layers[0].models for c in model.counters]
    held = {counter.key: Balance("w", 0, counter.limit, NOW_MS + DAY_MS) for counter in counters}
    world.now = Standing(balances=held)
    assert await world.look() == []


async def test_a_layer_without_any_key_is_no_news(world: World) -> None:
    absent = tuple(
        replace(model, absence=Absence(AbsenceKind.NO_KEY, "set KEY"))
        for model in world.catalog.layers[0].models
    )
    free = replace(world.catalog.layers[0], models=absent)
    world.catalog = replace(world.catalog, layers=(free, *world.catalog.layers[1:]))
    assert await world.look() == []


async def test_a_restart_does_not_tell_it_again(tmp_path: Path) -> None:
    world = World(tmp_path / "s.db")
    await world.open()
    bench_free(world, NEVER_MS)
    assert await layers_told(world) == OUT
    await world.store.close()
    await world.open()
    assert await layers_told(world) == []
    world.now = Standing()
    await world.look()
    assert await layers_told(world, STEADY_MS) == BACK
    await world.store.close()


async def test_a_cooldown_begins_and_ends(world: World) -> None:
    key = world.catalog.models[0].key
    bench = Bench(NOW_MS + 60_000, FailureClass.RATE_SHORT, "slow down")
    world.now = Standing(benches={key: bench})
    assert await world.look() == [("model", "openai/mini")]
    longer = replace(bench, until_ms=bench.until_ms + 60_000)
    world.now = Standing(benches={key: longer})
    assert await world.look() == []  # it only lasts longer
    assert await world.look(120_000) == [("model", "openai/mini")]
    [news] = [entry.news for entry in world.told]
    assert isinstance(news, ModelNews)
    assert news.detail == "the cooldown of the model is over"


async def test_a_cooldown_of_one_agent_is_told_as_its_own(world: World) -> None:
    key = f"{world.catalog.models[0].key} of agent bo"
    world.now = Standing(benches={key: Bench(NOW_MS + 60_000, FailureClass.OUTAGE, "down")})
    await world.look()
    assert [(entry.agent, str(entry.news.place)) for entry in world.told
            if isinstance(entry.news, ModelNews)] == [("bo", "openai/mini")]  # fmt: skip


async def test_circuits_open_and_close(world: World) -> None:
    states = []
    for circuit in (
        Circuit(CircuitState.OPEN, NOW_MS + 10_000), Circuit(CircuitState.OPEN, NOW_MS + 20_000),
        Circuit(CircuitState.HALF_OPEN, NOW_MS), None,
    ):  # fmt: skip
        world.now = Standing(circuits={"google": circuit} if circuit else {})
        await world.look()
        states += [e.news.circuit.value for e in world.told if isinstance(e.news, ModelNews)]
    assert states == ["open", "half_open", "closed"]
