"""What only a store on Redis has to show: several owners at once, and how little it may do."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio.connection import SSLConnection

from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Counter, Period, Unit
from escalade_server.core.commands import SetBench
from escalade_server.core.events import Reserved
from escalade_server.core.facts import AlertKind
from escalade_server.core.failure import DAY_MS, HOUR_MS, FailureClass
from escalade_server.core.standing import Bench
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.news import AlertNews, Entry, Once, ReportNews
from escalade_server.engine.ports import StoreError
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.redis_link import _connection, place_of
from escalade_server.stores.redis_orders import LEASE_MS
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

DAILY = counter("daily", 50)
MONEY = counter("money", USD, Unit.NANOS, Period.MONTH)
CAP = counter("cap", 1_000, Unit.NANOS, Period.MONTH)
MARKS = {
    "cap": tuple(Mark(p, p * 10, AlertKind.BUDGET, "layer") for p in (50, 80, 95, 100))
}  # fmt: skip


class Fleet:
    """Servers over one ledger, with one clock."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}?name=ledger-{next(numbers)}"
        self.clock = HandClock()
        self.stores: list[RedisStore] = []
        self.told: list[list[Entry]] = []

    async def open(self, *counters: Counter) -> RedisStore:
        store = RedisStore(
            place_of(self.url), self.clock, Calendar(),
            deadline_s=PATIENT_S, store_clock=self.clock,
        )  # fmt: skip
        self.told.append([])
        store.follow(self.told[-1].extend, MARKS)
        await store.open(counters)
        self.stores.append(store)
        return store

    async def take(self, store: RedisStore, id_: str, *counters: Counter, nanos: int = 10) -> None:
        order = reserve(id_, candidate(*counters, nanos=nanos))
        assert isinstance(await store.reserve(order, NOW_MS), Reserved)

    def figures(self, store: RedisStore) -> list[tuple[int, int]]:
        return [(spend.spent, spend.held) for spend in store.spends(self.clock.at_ms)]

    async def close(self) -> None:
        for store in self.stores:
            await store.close()


@pytest.fixture(params=["redis", "valkey"])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    server: Server = request.getfixturevalue(request.param)
    fleet = Fleet(server.url)
    yield fleet
    await fleet.close()


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(400):
        if holds():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it never came")


async def kill(store: RedisStore) -> None:
    """End a process as SIGKILL does: nothing is said, nothing is given back."""
    assert store._watch is not None
    store._watch.cancel()
    await store._let_go()
    store._closed = "dead"


async def test_eight_servers_share_a_dollar_and_never_overspend(fleet: Fleet) -> None:
    stores = [await fleet.open(MONEY) for _ in range(8)]
    spent = 0

    async def caller(number: int) -> None:
        nonlocal spent
        store = stores[number % 8]
        for turn in range(6):
            id_ = f"{number}-{turn}"
            order = reserve(id_, candidate(MONEY, nanos=9_000_000 + number))
            if isinstance(await store.reserve(order, NOW_MS), Reserved) and number % 2:
                await store.settle(settle(id_, nanos=4_000_000 + number), NOW_MS)
                spent += 4_000_000 + number

    await asyncio.gather(*(caller(number) for number in range(200)))
    fresh = await fleet.open(MONEY)
    [(booked, held)] = fleet.figures(fresh)
    assert booked == spent
    assert 0.9 * USD < booked + held <= USD
    await until(lambda: all(fleet.figures(store) == [(booked, held)] for store in stores))


async def test_a_dead_server_is_noticed_and_booked_in_full_by_the_others(fleet: Fleet) -> None:
    """C6, X1. It was only paused: what it settles late corrects what was assumed, once."""
    dead, alive = await fleet.open(MONEY), await fleet.open(MONEY)
    for n in range(45):  # more than one look takes
        await fleet.take(dead, f"dead-{n}", MONEY, nanos=500)
    await fleet.take(alive, "alive", MONEY, nanos=7)
    await kill(dead)
    fleet.clock.at_ms += LEASE_MS - 1
    await asyncio.sleep(0.6)
    assert fleet.figures(alive) == [(0, 45 * 500 + 7)]
    fleet.clock.at_ms += 2
    await until(lambda: fleet.figures(alive) == [(45 * 500, 7)])
    for _ in range(2):
        await alive.settle(settle("dead-3", nanos=60), NOW_MS)
    assert fleet.figures(alive) == [(44 * 500 + 60, 7)]


async def test_what_one_sets_aside_the_others_know(fleet: Fleet) -> None:
    one, two = await fleet.open(DAILY), await fleet.open(DAILY)
    bench = Bench(NOW_MS + HOUR_MS, FailureClass.OUTAGE, "down")
    await one.bench(SetBench("p", bench), NOW_MS)
    await until(lambda: two.standing(NOW_MS).benches == {"p": bench})


async def test_a_mark_that_servers_cross_together_is_told_once_to_all(fleet: Fleet) -> None:
    stores = [await fleet.open(CAP) for _ in range(3)]
    for n in range(20):
        await fleet.take(stores[n % 3], f"t{n}", CAP, nanos=50)
    await asyncio.gather(
        *(stores[n % 3].settle(settle(f"t{n}", nanos=50), NOW_MS) for n in range(20))
    )

    def percents(told: list[Entry]) -> list[int | None]:
        return [entry.news.percent for entry in told if isinstance(entry.news, AlertNews)]

    await until(lambda: all(percents(told)[-1:] == [100] for told in fleet.told))
    await asyncio.sleep(0.6)
    assert fleet.told[0] == fleet.told[1] == fleet.told[2]
    assert len(set(percents(fleet.told[0]))) == len(percents(fleet.told[0]))


async def test_a_limit_that_was_lowered_tells_what_it_has_passed_once(fleet: Fleet) -> None:
    one, two = await fleet.open(CAP), await fleet.open(CAP)
    await fleet.take(one, "t", CAP, nanos=300)
    await one.settle(settle("t", nanos=300), NOW_MS)
    await until(lambda: fleet.figures(two) == [(300, 0)])
    lower = replace(CAP, limit=300)
    marks = {"cap": tuple(mark._replace(at=mark.percent * 3) for mark in MARKS["cap"])}
    for store in (one, two):
        await store.adopt((lower,), marks)

    def details(told: list[Entry]) -> list[str]:
        return [entry.news.detail for entry in told if isinstance(entry.news, AlertNews)]

    await until(lambda: all(details(told) for told in fleet.told))
    await fleet.take(two, "nothing", lower, nanos=0)
    assert [len(details(told)) for told in fleet.told] == [1, 1]
    assert "passed 50 %, 80 %, 95 %, 100 % at once" in details(fleet.told[0])[0]


async def test_the_feed_is_one_and_is_read_again(fleet: Fleet) -> None:
    one, two = await fleet.open(DAILY), await fleet.open(DAILY)
    once = Once("layer out", NOW_MS + HOUR_MS)
    for store in (one, two, one):
        store.record((Entry(NOW_MS, ReportNews("out"), once=once),))
    one.record([Entry(NOW_MS + n, ReportNews(f"day {n}"), agent="bo") for n in range(3)])
    one.delivered(2)
    await until(lambda: [len(told) for told in fleet.told] == [4, 4])
    page = await two.entries(1, 2)
    assert [entry.number for entry in page.entries] == [2, 3]
    assert (page.oldest, page.newest, page.delivered) == (0, 4, 2)
    again = await one.entries(0, 10)
    assert [each.news for each in again.entries if each.agent] == [
        ReportNews(f"day {n}") for n in range(3)
    ]
    assert page.epoch == again.epoch
    fleet.clock.at_ms += 7 * DAY_MS + 10
    one.record([Entry(fleet.clock.at_ms, ReportNews("new"))])
    left = await one.entries(0, 10)
    assert [(entry.number, entry.news) for entry in left.entries] == [(5, ReportNews("new"))]
    assert (left.oldest, left.newest) == (4, 5)


@asynccontextmanager
async def user(server: Server, *rights: str) -> AsyncIterator[str]:
    """A user of Redis with these rights and no others; yields a URL."""
    name = f"ledger-{next(numbers)}"
    keys = f"~{{{name}}}:*"
    answer = server.say("ACL", "SETUSER", "escalade", "reset", "on", ">hush", *rights, keys)
    assert answer == b"+OK\r\n", answer
    yield server.url.replace("redis://", "redis://escalade:hush@") + f"?name={name}"
    server.say("ACL", "DELUSER", "escalade")


RIGHTS = (
    "-@all", "+evalsha", "+script|load", "+info", "+time", "+select", "+@hash", "+@set",
    "+@sortedset", "+@stream", "+set", "+del", "+pexpire",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_user_with_few_rights_and_one_prefix_will_do(
    request: pytest.FixtureRequest, kind: str
) -> None:
    """The rights that the README names."""
    server: Server = request.getfixturevalue(kind)
    async with user(server, *RIGHTS) as url:
        clock = SystemClock()
        store = RedisStore(place_of(url), clock, Calendar(), deadline_s=PATIENT_S)
        store.follow(lambda _: None, {"daily": (Mark(1, 1, AlertKind.QUOTA),)})
        await store.open([DAILY])
        order = replace(reserve("a", candidate(DAILY)), request_id="r", content="c")
        assert isinstance(await store.reserve(order, 0), Reserved)
        await store.settle(settle("a"), 0)
        await store.bench(SetBench("p", Bench(1, FailureClass.OUTAGE, "")), 0)
        assert await store.find("a") is not None
        assert len((await store.entries(0, 9)).entries) == 1
        assert len((await store.usage("2000-01-01", "3000-01-01")).rows) == 1
        assert await store.keep_report("2026-01-01", "{}", 0)
        await store.close()
        foreign = place_of(url.replace("name=", "name=other-"))
        with pytest.raises(StoreError, match=r"refuses|access|permission"):
            await RedisStore(foreign, clock, Calendar(), deadline_s=PATIENT_S).open([DAILY])


CERTIFICATES = Path(__file__).resolve().parents[1] / "api" / "certificates"


@pytest.mark.parametrize(
    ("shown", "query", "says"),
    [
        ("server", "&ca={authority}&cert={bob}&key={bob}", ""),
        ("server", "&ca={stranger}&cert={bob}&key={bob}", "certificate verify failed"),
        ("server", "&cert={bob}&key={bob}", "certificate verify failed"),
        ("alice", "&ca={authority}&cert={bob}&key={bob}", "unsuitable certificate"),
        ("server", "&ca={authority}", "."),
    ],
    ids=[
        "verified",
        "another authority",
        "no authority",
        "no certificate of a server",
        "no client certificate",
    ],
)
async def test_d19_over_tls_both_sides_are_verified(
    tmp_path: Path, shown: str, query: str, says: str
) -> None:
    files = {path.stem: str(path) for path in CERTIFICATES.glob("*.pem")}
    port = free_port()
    tls = (
        "--tls-port", str(port), "--tls-cert-file", files[shown], "--tls-key-file", files[shown],
        "--tls-ca-cert-file", files["authority"], "--tls-auth-clients", "yes",
    )  # fmt: skip
    with serving("redis", tmp_path, *tls):
        place = place_of(f"rediss://127.0.0.1:{port}/0?name=x{query.format(**files)}")
        connection = _connection(place, "127.0.0.1", port)
        assert isinstance(connection, SSLConnection)
        assert connection.check_hostname
        assert connection.cert_reqs is ssl.CERT_REQUIRED
        store = RedisStore(place, SystemClock(), Calendar(), deadline_s=PATIENT_S)
        if says:
            with pytest.raises(StoreError, match=says):
                await store.open([DAILY])
        else:
            await store.open([DAILY])
            assert isinstance(await store.reserve(reserve("a", candidate(DAILY)), 0), Reserved)
        await store.close()
