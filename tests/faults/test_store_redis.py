"""Faults of a Redis or Valkey that several servers share (rows S8-S14, T6), on real servers."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from escalade_server.core.catalog import Counter, Period, Unit
from escalade_server.core.events import Reserved
from escalade_server.core.task import Basis
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.ports import StoreError
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.redis_link import DEADLINE_MS, place_of
from tests.stores.servers import Server, free_port, serving
from tests.stores.world import (
    NOW_MS,
    PATIENT_S,
    USD,
    HandClock,
    candidate,
    counter,
    numbers,
    reserve,
    settle,
)  # fmt: skip
from tests.takeovers.relay import Relay

DAILY = counter("daily", 50)
MONEY = counter("money", USD, Unit.NANOS, Period.MONTH)
KINDS = ["redis", "valkey"]


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with serving(request.param, tmp_path) as server:
        yield server


@asynccontextmanager
async def opened(
    server: Server,
    *counters: Counter,
    told: list[str] | None = None,
    query: str = "",
    deadline_s: float = PATIENT_S,
) -> AsyncIterator[RedisStore]:
    url = f"{server.url}?name=ledger-{next(numbers)}{query}"
    heard = told if told is not None else []
    store = RedisStore(
        place_of(url), HandClock(), Calendar(), heard.append,
        deadline_s=deadline_s, store_clock=HandClock(),
    )  # fmt: skip
    await store.open(counters)
    try:
        yield store
    finally:
        await store.close()


def figures(store: RedisStore) -> list[tuple[int, int]]:
    return [(spend.spent, spend.held) for spend in store.spends(NOW_MS)]


async def take(store: RedisStore, id_: str, *counters: Counter) -> None:
    assert isinstance(await store.reserve(reserve(id_, candidate(*counters)), NOW_MS), Reserved)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it never came")


@pytest.mark.fault("S8")
@pytest.mark.parametrize("kind", KINDS)
async def test_redis_gone_closes_at_once_and_comes_back_without_a_restart(
    kind: str, tmp_path: Path
) -> None:
    told: list[str] = []
    keeping = ("--appendonly", "yes", "--appendfsync", "always")
    with serving(kind, tmp_path, *keeping) as server:
        journal = f"&journal={tmp_path}/journal"
        async with opened(server, DAILY, MONEY, told=told, query=journal) as store:
            for name in ("before", "during", "left"):
                await take(store, name, DAILY, MONEY)
            await store.settle(settle("before", nanos=4), NOW_MS)
            server.stop()
            for n in range(20):
                with pytest.raises(StoreError):
                    await store.reserve(reserve(f"n{n}", candidate(DAILY)), NOW_MS)
            # What was used is not lost meanwhile, and the journal has it.
            await store.settle(settle("during", nanos=7), NOW_MS)
            assert b"during" in (tmp_path / "journal").read_bytes()
            assert len(told) == 1
            assert "nothing is admitted" in told[0]
            server.start()
            await until(lambda: told[-1] == "")
            await take(store, "after", DAILY, MONEY)
            assert figures(store) == [(2, 2), (11, 20)]
            assert b"during" not in (tmp_path / "journal").read_bytes()


@pytest.mark.fault("S8", "S10")
async def test_a_journal_outlives_the_process(redis_server: Server, tmp_path: Path) -> None:
    name, journal = f"ledger-{next(numbers)}", tmp_path / "journal"
    url = f"{redis_server.url}?name={name}&journal={journal}"

    def made() -> RedisStore:
        place = place_of(url)
        clock = HandClock()
        return RedisStore(place, clock, Calendar(), deadline_s=PATIENT_S, store_clock=clock)

    store = made()
    await store.open([MONEY])
    await take(store, "used", MONEY)
    await store._fail([], "the cable was pulled")
    await store.settle(settle("used", nanos=3), NOW_MS)
    assert store._watch is not None
    store._watch.cancel()  # and now the process dies
    await store._let_go()
    again = made()
    await again.open([MONEY])
    assert figures(again) == [(3, 0)]
    await again.close()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Server]:
    with serving("redis", tmp_path) as server:
        yield server


@pytest.mark.fault("S9", "S13")
async def test_a_slow_redis_sheds_within_its_deadline_and_queues_nothing(server: Server) -> None:
    """Whether the scripts ran after all is not known: the release makes that good."""
    assert DEADLINE_MS == 250
    told: list[str] = []
    deadline_s = 1.5  # a loaded machine is no slow Redis
    async with opened(server, DAILY, told=told, deadline_s=deadline_s) as store:
        loop = asyncio.get_running_loop()
        server.pause()
        begun = loop.time()
        orders = [store.reserve(reserve(f"n{n}", candidate(DAILY)), NOW_MS) for n in range(40)]
        answers = await asyncio.gather(*orders, return_exceptions=True)
        later = loop.time()
        with pytest.raises(StoreError):
            await store.reserve(reserve("late", candidate(DAILY)), NOW_MS)
        at_once_s = loop.time() - later
        assert {type(answer) for answer in answers} == {StoreError}
        # One deadline for all of them, not one after the other (40); then none at all.
        assert later - begun < 30 * deadline_s
        assert at_once_s < deadline_s
        for n in range(40):
            await store.settle(settle(f"n{n}", 0, 0, 0, Basis.NONE), NOW_MS)
        server.resume()
        await until(lambda: told[-1] == "")
        assert figures(store) == [(0, 0)]
        await take(store, "after", DAILY)


async def test_late_answers_close_what_is_paid_for_and_are_taken_for_nothing_else(
    server: Server,
) -> None:
    """Redis is there and works, two seconds away; then it is near again."""
    relay, told = Relay(), list[str]()
    relay.target = server.port
    await relay.start()
    near = Server(server.kind, server.folder, relay.port)
    async with opened(near, DAILY, MONEY, told=told, deadline_s=1.0) as store:
        await until(lambda: told[-1:] in ([], [""]))
        relay.delay_s = 2.0
        with pytest.raises(StoreError, match="no answer in time"):
            await store.reserve(reserve("late", candidate(MONEY, nanos=5)), NOW_MS)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for n in range(100):
            with pytest.raises(StoreError):
                await store.reserve(reserve(f"n{n}", candidate(MONEY)), NOW_MS)
        assert loop.time() - begun < 100 * relay.delay_s / 10
        await store.settle(settle("late", 0, 0, 0, Basis.NONE), NOW_MS)
        assert told[-1] != ""
        relay.delay_s = 0.0
        await until(lambda: told[-1] == "")
        await take(store, "near", MONEY)
        assert figures(store) == [(0, 0), (0, 10)]
    await relay.close()


@pytest.mark.fault("S11")
async def test_an_emptied_redis_is_not_nothing_spent(server: Server) -> None:
    told: list[str] = []
    async with opened(server, DAILY, told=told) as store:
        await take(store, "one", DAILY)
        server.say("FLUSHALL")
        await until(lambda: bool(told))  # noticed with nobody asking
        with pytest.raises(StoreError, match="what was spent is not known"):
            await store.reserve(reserve("two", candidate(DAILY)), NOW_MS)
        assert "gone" in told[0]
        await asyncio.sleep(0.6)
        with pytest.raises(StoreError):
            await store.reserve(reserve("three", candidate(DAILY)), NOW_MS)
        assert len(told) == 1


@pytest.mark.fault("S11")
async def test_a_redis_that_comes_back_empty_is_told_as_such(server: Server) -> None:
    told: list[str] = []
    async with opened(server, DAILY, told=told) as store:
        await take(store, "one", DAILY)
        server.stop()
        await until(lambda: bool(told))
        assert "gone" not in told[0]
        server.start()
        await until(lambda: len(told) > 1)
        assert "another one: what was spent is not known" in told[1]
        await asyncio.sleep(0.6)
        assert len(told) == 2


@pytest.mark.fault("S11")
async def test_a_redis_that_forgets_by_itself_is_refused(server: Server) -> None:
    server.say("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreError, match="noeviction"):
        async with opened(server, DAILY):
            pass


@pytest.mark.fault("S11", "S12")
@pytest.mark.parametrize(
    ("breaks", "mends", "says"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "memory"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read only"),
    ],
)
async def test_a_redis_that_takes_no_writes_admits_nothing_and_loses_nothing(
    server: Server, breaks: tuple[str, ...], mends: tuple[str, ...], says: str
) -> None:
    told: list[str] = []
    async with opened(server, MONEY, told=told) as store:
        await take(store, "one", MONEY)
        assert server.say(*breaks) == b"+OK\r\n"
        with pytest.raises(StoreError, match=f"{says}|replica"):
            await store.reserve(reserve("two", candidate(MONEY)), NOW_MS)
        with pytest.raises(StoreError, match="kept in memory only"):
            await store.settle(settle("one", nanos=6), NOW_MS)
        server.say(*mends)
        await until(lambda: told[-1] == "")
        assert figures(store) == [(6, 0)]


@pytest.mark.fault("S12")
async def test_forgotten_scripts_are_given_again(server: Server) -> None:
    async with opened(server, DAILY) as store:
        for n in range(5):
            server.say("SCRIPT", "FLUSH")
            orders = [
                store.reserve(reserve(f"{n}-{m}", candidate(DAILY)), NOW_MS) for m in range(9)
            ]
            settles = [store.settle(settle(f"{n}-{m}"), NOW_MS) for m in range(9)]
            assert all(isinstance(each, Reserved) for each in await asyncio.gather(*orders))
            await asyncio.gather(*settles)
        assert figures(store) == [(45, 0)]


@pytest.mark.fault("S12")
@pytest.mark.parametrize("kind", KINDS)
async def test_of_a_cluster_the_node_with_the_ledger_is_found(kind: str, tmp_path: Path) -> None:
    """Three nodes, each entered in turn: two of them answer MOVED. No key is in another slot."""
    with cluster(kind, tmp_path) as nodes:
        for node in nodes:
            async with opened(node, DAILY, MONEY) as store:
                for n in range(5):
                    await take(store, f"n{n}", DAILY, MONEY)
                    await store.settle(settle(f"n{n}", nanos=1), NOW_MS)
                assert figures(store) == [(5, 0), (5, 0)]


@contextmanager
def cluster(kind: str, folder: Path) -> Iterator[list[Server]]:
    ranges = [(0, 5460), (5461, 10922), (10923, 16383)]
    nodes: list[Server] = []
    try:
        for number in range(3):
            home = folder / f"node-{number}"
            home.mkdir()
            ports = f"--cluster-port {free_port()}".split()
            node = Server(kind, home, free_port(), ("--cluster-enabled", "yes", *ports))
            nodes.append(node)
            node.start()
            begin, end = ranges[number]
            assert node.say("CLUSTER", "ADDSLOTSRANGE", str(begin), str(end)) == b"+OK\r\n"
            assert node.say("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1)) == b"+OK\r\n"
            bus = ports[1]
            for other in nodes[:-1]:
                other.say("CLUSTER", "MEET", "127.0.0.1", str(node.port), bus)
        await_cluster(nodes)
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def await_cluster(nodes: list[Server]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if all(b"cluster_state:ok" in node.say("CLUSTER", "INFO") for node in nodes):
            return
        time.sleep(0.05)
    pytest.fail("no cluster was formed")


@pytest.mark.fault("T6")
async def test_the_clock_of_the_store_decides_where_servers_disagree(server: Server) -> None:
    """Two servers, one 90 s ahead and past midnight; the store says that it is still today."""
    midnight = NOW_MS - NOW_MS % 86_400_000 + 86_400_000
    name = f"ledger-{next(numbers)}"
    stores = [
        RedisStore(
            place_of(f"{server.url}?name={name}"), HandClock(midnight + shift_ms), Calendar(),
            deadline_s=PATIENT_S, store_clock=HandClock(midnight - 45_000),
        )
        for shift_ms in (-45_000, 45_000, 345_000)
    ]  # fmt: skip
    for store in stores:
        await store.open([DAILY])
    behind, ahead, far = stores
    await take(behind, "a", DAILY)
    await take(ahead, "b", DAILY)
    assert [(s.spent, s.held, s.ends_ms) for s in ahead.spends(midnight + 45_000)] == [
        (0, 2, midnight)
    ]
    with pytest.raises(StoreError, match="390 s apart"):
        await far.reserve(reserve("c", candidate(DAILY)), NOW_MS)
    for store in stores:
        await store.close()


@pytest.mark.fault("S10")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_takeover_without_the_last_writes_loses_no_settlement(
    kind: str, tmp_path: Path
) -> None:
    """The server that takes over knows all up to an instant and nothing of later, five times."""
    told: list[str] = []
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir()
    with serving(kind, home, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with opened(server, DAILY, MONEY, told=told) as store:
            paid = requests = 0
            for turn in range(5):
                for name in ("known", "settled late"):
                    await take(store, f"{turn} {name}", MONEY)
                await store.settle(settle(f"{turn} known", nanos=5), NOW_MS)
                shutil.copytree(home, copy)  # up to here it was heard of
                await take(store, f"{turn} lost", MONEY)
                await store.settle(settle(f"{turn} settled late", nanos=7), NOW_MS)
                await store.settle(settle(f"{turn} lost", nanos=9), NOW_MS)
                await take(store, f"{turn} open", MONEY)
                paid, requests = paid + 5 + 7 + 9, requests + 1
                told.clear()
                server.stop()
                shutil.rmtree(home)
                copy.rename(home)
                server.start()
                await until(lambda: told[-1:] == [""])
                assert figures(store)[1] == (paid, 10 * requests)
            for turn in range(5):
                await store.settle(settle(f"{turn} open", nanos=1), NOW_MS)
            assert figures(store)[1] == (paid + 5, 0)
