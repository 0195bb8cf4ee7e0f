"""Servers that share one Redis: one quota, one memory of request ids, one feed."""

import asyncio
import io
import json
from pathlib import Path

import pytest

import escalade
from escalade_server.bootstrap import Running, StartError
from escalade_server.bootstrap.doctor import Mark, Patient, _store
from escalade_server.stores import redis_versions
from escalade_server.stores.redis import RedisStore
from tests.bootstrap.test_bootstrap import NOBODY, options, serving, simulated
from tests.stores.servers import serving as redis_serving


def five_a_day(strategy: Path) -> None:
    strategy.write_text(strategy.read_text("utf-8").replace("50/day", "5/day"), "utf-8")


async def kinds(running: Running) -> set[str]:
    store = running.engine.store
    assert isinstance(store, RedisStore)
    return {entry.kind.value for entry in (await store.entries(0, 1_000)).entries}


@pytest.mark.fault("S8")
@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_two_servers_share_one_quota(kind: str, tmp_path: Path) -> None:
    log = io.StringIO()
    keeping = ("--appendonly", "yes", "--appendfsync", "always", "--requirepass", "hush")
    with redis_serving(kind, tmp_path, *keeping) as redis:
        state = f"redis://:hush@127.0.0.1:{redis.port}/0?deadline_ms=20000"
        async with simulated() as simulator:
            told = options(tmp_path, simulator.provider_url("openai"), state=state)
            five_a_day(Path(told.strategy))
            async with (
                serving(told, log) as one,
                serving(told, log) as two,
                escalade.AsyncClient(one.target) as first,
                escalade.AsyncClient(two.target) as second,
            ):
                assert (one.ledger_is_new, two.ledger_is_new) == (True, False)
                assert "hush" not in one.state
                await first.complete("One.", request_id="same")
                await second.complete("Two.")
                with pytest.raises(escalade.StatusError) as repeated:
                    await second.complete("One.", request_id="same")
                assert repeated.value.reason == "ALREADY_ANSWERED"
                await first.complete("Three.")

                # What is left of a free model's quota is shared out while Redis is gone: 1 each.
                redis.stop()
                for client in (first, second):
                    await client.complete("Four, five.", timeout=60)
                    with pytest.raises(escalade.StatusError) as gone:
                        await client.complete("Six.", timeout=60)
                    assert gone.value.reason == "LEDGER_UNAVAILABLE"
                    [layer] = (await client.status()).layers
                    assert not layer.exhausted, "free models go on"
                redis.start()
                async with asyncio.timeout(30):
                    while log.getvalue().count("ledger.mended") < 2:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                for client in (first, second):
                    with pytest.raises(escalade.StatusError) as full:
                        await client.complete("Seven.", timeout=60)
                    assert "5 of 5" in str(full.value)
                # What one server writes into the feed, the other tells, too.
                for running in (one, two):
                    async with asyncio.timeout(30):
                        while "alert" not in await kinds(running):  # noqa: ASYNC110
                            await asyncio.sleep(0.05)
    logged = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["event"] for line in logged].count("ledger.new") == 1
    assert "hush" not in log.getvalue()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("redis://127.0.0.1:1/0", "127.0.0.1:1"),
        ("redis://:hush@db.example:6379/0", "without TLS"),
        ("redis://:hush@127.0.0.1:1/0?colour=red", "unknown settings colour"),
        ("rediss://", "no URL of a Redis"),
        ("redis://:hush@127.0.0.1:1/0?name={x}", "no braces"),
    ],
)
async def test_what_cannot_be_used_is_refused_without_its_password(
    tmp_path: Path, state: str, says: str
) -> None:
    with pytest.raises(StartError, match=says) as refused:
        async with serving(options(tmp_path, NOBODY, state=state)):
            pass
    assert "hush" not in str(refused.value)


async def test_the_doctor_looks_at_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_serving("valkey", tmp_path) as redis:
        patient = Patient(None, f"{redis.url}?deadline_ms=20000", None, 0, 0.0, None, None)
        well = await _store(patient, None)
        with monkeypatch.context() as patch:
            patch.setitem(redis_versions.MENDED, "Valkey", ((99, 0, 1),))
            old = await _store(patient, None)
            log = io.StringIO()
            async with serving(options(tmp_path, NOBODY, state=redis.url), log):
                pass
        redis.say("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        ill = await _store(patient, None)
    gone = await _store(patient, None)
    assert [found.mark for found in (well, ill, gone)] == [Mark.OK, Mark.FAILED, Mark.FAILED]
    assert "noeviction" in ill.detail
    assert old.mark is Mark.WARNING
    for told in (old.detail, log.getvalue()):
        assert "mended in 99.0.1" in told
    assert "ledger.outdated" in log.getvalue()
