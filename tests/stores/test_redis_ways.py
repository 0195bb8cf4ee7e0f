"""How the server that takes writes is found: by its address, by sentinels, in a cluster."""

import asyncio
from pathlib import Path

import pytest

from escalade_server.core.catalog import Unit
from escalade_server.core.events import Reserved
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.ports import StoreError
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.redis_link import Way, place_of
from tests.faults.test_store_redis import cluster
from tests.stores.sentinels import SERVICE, watched
from tests.stores.servers import free_port
from tests.stores.test_redis import until
from tests.stores.world import (
    NOW_MS,
    PATIENT_S,
    HandClock,
    candidate,
    counter,
    reserve,
    settle,
)

MONEY = counter("money", 1_000, Unit.NANOS)


async def opened(url: str, told: list[str] | None = None) -> RedisStore:
    heard, clock = told if told is not None else [], HandClock()
    store = RedisStore(
        place_of(url), clock, Calendar(), heard.append, deadline_s=PATIENT_S, store_clock=clock
    )
    await store.open([MONEY])
    return store


def figures(store: RedisStore) -> list[tuple[int, int]]:
    return [(spend.spent, spend.held) for spend in store.spends(NOW_MS)]


async def take(store: RedisStore, id_: str) -> None:
    answer = await store.reserve(reserve(id_, candidate(MONEY, nanos=10)), NOW_MS)
    assert isinstance(answer, Reserved)


async def test_sentinels_name_the_primary_also_after_a_takeover(tmp_path: Path) -> None:
    told: list[str] = []
    with watched("redis", tmp_path) as ((primary, replica), sentinels):
        hosts = [free_port(), *(each.port for each in sentinels)]  # the first one is not there
        names = ",".join(f"127.0.0.1:{port}" for port in hosts)
        store = await opened(f"redis+sentinel://{names}/{SERVICE}/0?name=ways", told)
        await take(store, "one")
        await take(store, "two")
        await store.settle(settle("one", nanos=7), NOW_MS)
        primary.stop()
        await until(lambda: bool(told))
        await until(lambda: told[-1] == "")
        assert b"role:master" in replica.say("INFO", "replication")
        await take(store, "three")
        await store.settle(settle("two", nanos=5), NOW_MS)
        assert figures(store) == [(12, 10)]
        await store.close()
        with pytest.raises(StoreError, match="knows no service 'other'"):
            await opened(f"redis+sentinel://127.0.0.1:{sentinels[0].port}/other")


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_a_cluster_is_entered_by_whichever_node_is_there(kind: str, tmp_path: Path) -> None:
    told: list[str] = []
    with cluster(kind, tmp_path) as nodes:
        names = ",".join(f"127.0.0.1:{port}" for port in (free_port(), *(n.port for n in nodes)))
        store = await opened(f"redis+cluster://{names}/?name=ways", told)
        await take(store, "one")
        for node in nodes:
            node.say("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: told[-1:] == [""])
        await store.settle(settle("one", nanos=7), NOW_MS)
        assert figures(store) == [(7, 0)]
        await store.close()


async def test_an_address_that_a_sentinel_names_is_not_spoken_to_without_tls() -> None:
    left = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"books\r\n")
        writer.write(b"*2\r\n$8\r\n10.1.2.3\r\n$4\r\n6379\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StoreError, match=r"without TLS.*10\.1\.2\.3"):
            await opened(f"redis+sentinel://127.0.0.1:{port}/books")
        await left.wait()


@pytest.mark.parametrize(
    ("url", "way", "hosts", "db", "service"),
    [
        ("redis://127.0.0.1", Way.DIRECT, (("127.0.0.1", 6379),), 0, ""),
        ("rediss://u:p@h:7/3", Way.DIRECT, (("h", 7),), 3, ""),
        ("redis://[::1]:7/3", Way.DIRECT, (("::1", 7),), 3, ""),
        ("rediss+sentinel://:p@a,b:7,[fd00::1]/s%2F1/2", Way.SENTINEL,
         (("a", 26379), ("b", 7), ("fd00::1", 26379)), 2, "s/1"),
        ("rediss+cluster://u:p@a:1,b", Way.CLUSTER, (("a", 1), ("b", 6379)), 0, ""),
    ],
)  # fmt: skip
def test_a_url_names_the_way(
    url: str, way: Way, hosts: tuple[tuple[str, int], ...], db: int, service: str
) -> None:
    place = place_of(url)
    assert (place.way, place.hosts, place.db, place.service) == (way, hosts, db, service)
    assert ":p@" not in repr(place)


def test_passwords_may_be_in_files(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("hush\n")
    (tmp_path / "s").write_text("quiet\n")
    query = f"password_file={tmp_path}/r&sentinel_password_file={tmp_path}/s&deadline_ms=900"
    place = place_of(f"rediss+sentinel://escalade@a/books?{query}")
    known = (place.username, place.password, place.sentinel_password, place.deadline_ms)
    assert known == ("escalade", "hush", "quiet", 900)
    with pytest.raises(StoreError, match="cannot be read"):
        place_of("rediss://a?password_file=/none/there")


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:hush@127.0.0.1/a/0/1", "redis+cluster://:hush@127.0.0.1/3",
        "redis+other://:hush@127.0.0.1", "redis://:hush@127.0.0.1,,", "redis://:hush@h:port",
        "redis://:hush@127.0.0.1/x", "redis+sentinel://:hush@127.0.0.1,db.example/books",
        "redis://:hush@127.0.0.1?deadline_ms=0", "redis://:hush@127.0.0.1?deadline_ms=soon",
    ],
)  # fmt: skip
def test_what_is_no_place_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(StoreError) as refused:
        place_of(url)
    assert "hush" not in str(refused.value)
