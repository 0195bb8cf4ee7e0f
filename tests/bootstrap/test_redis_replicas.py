"""Several servers over one Redis are one: request ids, tokens, the ledger's commands, notices."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import escalade
from escalade_server.bootstrap import Running
from escalade_server.engine.ports import Duty
from escalade_server.provider_simulator import ModelScript
from escalade_server.stores.redis import RedisStore
from tests.bootstrap.test_bootstrap import Watcher, options, serving, simulated
from tests.bootstrap.test_redis_state import five_a_day
from tests.cli.commands import run
from tests.stores.servers import Server
from tests.stores.servers import serving as redis_serving
from tests.stores.test_redis import until


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    """A Valkey: the scripts are held to both servers by the tests of the store."""
    keeping = ("--appendonly", "yes", "--appendfsync", "always")
    with redis_serving("valkey", tmp_path, *keeping) as server:
        yield server


async def test_a_request_id_runs_on_one_server_only(tmp_path: Path, redis: Server) -> None:
    told_one = Watcher()
    async with simulated() as simulator:
        simulator.script("openai", "gpt-4o-mini", ModelScript(text="Done.", first_token_ms=2_000))
        told = options(
            tmp_path, simulator.provider_url("openai"), state=f"{redis.url}?deadline_ms=20000"
        )
        async with (
            serving(told, observers=(told_one,)) as one,
            serving(told) as two,
            escalade.AsyncClient(one.target) as first,
            escalade.AsyncClient(two.target) as second,
        ):
            running = asyncio.ensure_future(first.complete("One.", request_id="same"))
            await until(lambda: "Selected" in told_one.seen)
            with pytest.raises(escalade.StatusError) as repeated:
                await second.complete("One.", request_id="same", timeout=60)
            assert repeated.value.reason == "REQUEST_IN_PROGRESS"
            assert (await running).text == "Done."
            with pytest.raises(escalade.StatusError) as repeated:
                await second.complete("One.", request_id="same", timeout=60)
            assert repeated.value.reason == "ALREADY_ANSWERED"
            assert simulator.ledger().of("openai", "gpt-4o-mini").requests_received == 1


async def test_tokens_and_corrections_of_the_command_line_reach_every_server(
    tmp_path: Path, redis: Server
) -> None:
    def command(*words: str) -> str:
        done = run(*words, "--strategy", strategy, "--state", redis.url)
        assert done.exit_code == 0, done.output
        return done.stdout

    async with simulated() as simulator:
        told = options(
            tmp_path, simulator.provider_url("openai"), state=f"{redis.url}?deadline_ms=20000"
        )
        strategy = told.strategy
        text = (await asyncio.to_thread(command, "token", "create", "alice")).strip()
        async with serving(told) as one, serving(told) as two:
            for server in (one, two):
                async with escalade.AsyncClient(server.target, token=text) as alice:
                    await alice.complete("Hello.")
                async with escalade.AsyncClient(server.target) as nobody:
                    with pytest.raises(escalade.StatusError) as unknown:
                        await nobody.complete("Hello.")
                    assert unknown.value.reason == "CALLER_UNKNOWN"
            key = "requests/day:openai/default/gpt-4o-mini"
            entered = ("ledger", "set", key, "50", "--reason", "used elsewhere", "--json")
            assert json.loads(await asyncio.to_thread(command, *entered))["old"] == 2
            async with escalade.AsyncClient(two.target, token=text) as alice:
                with pytest.raises(escalade.StatusError, match="50 of 50"):
                    await alice.complete("Hello.", timeout=60)
            shown = json.loads(await asyncio.to_thread(command, "ledger", "show", "--json"))
            assert [(c["counter"], c["spent"], c["limit"]) for c in shown["counters"]] == [
                (key, 50, 50)
            ]
            assert shown["audit"][0]["reason"] == "used elsewhere"
            key_id = text.split("_")[1]
            await asyncio.to_thread(run, "token", "revoke", key_id, "--state", redis.url)
            await until(lambda: not _is_live(one) and not _is_live(two))


def _is_live(server: Running) -> bool:
    assert isinstance(server.engine.store, RedisStore)
    [token] = server.engine.store.shared.all()
    return token.revoked_ms is None


async def test_people_are_told_once_by_the_server_that_has_the_duty(
    tmp_path: Path, redis: Server
) -> None:
    logs = [io.StringIO() for _ in range(3)]

    def notices() -> list[str]:
        lines = [json.loads(line) for log in logs for line in log.getvalue().splitlines()]
        return [line["detail"] for line in lines if line["event"] == "notice"]

    async with simulated() as simulator:
        told = options(
            tmp_path, simulator.provider_url("openai"), state=f"{redis.url}?deadline_ms=20000"
        )
        five_a_day(Path(told.strategy))
        async with (
            serving(told, logs[0]) as one,
            serving(told, logs[1]) as two,
            serving(told, logs[2]) as three,
            escalade.AsyncClient(three.target) as client,
        ):
            stores = [server.engine.store for server in (one, two, three)]
            duties = [s.shared.holds(Duty.NOTICES) for s in stores if isinstance(s, RedisStore)]
            assert duties == [True, False, False]
            for _ in range(5):
                await client.complete("Hello.")
            await until(lambda: any("no model of" in each for each in notices()))
            await asyncio.sleep(2.5)  # had others told it, they would have by now
    assert len(set(notices())) == len(notices())
    assert not any('"notice"' in log.getvalue() for log in logs[1:])
