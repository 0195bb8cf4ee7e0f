"""Several processes on one port over one ledger: `escalade serve --workers N`."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from grpc import aio

from escalade.v1 import operations_service_pb2 as o
from escalade.v1 import operations_service_pb2_grpc, router_service_pb2_grpc
from escalade.v1.escalation_pb2 import Constraints
from escalade_server.bootstrap import doctor
from escalade_server.provider_simulator import FaultKind, ModelScript
from tests.api.world import Told, ask, listen, told
from tests.e2e.test_commands import command
from tests.e2e.world import World, failing, world
from tests.stores.world import audit, rows

TWO = ("--workers", "2")
WAIT_S = 60.0
OPEN, ASSUMED = 0, 2
STRATEGY = """\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      models: [{provider: openai, model: gpt-4o-mini, rate_limit: 1/day}]
    - name: paid
      priority: 2
      trigger: free.exhausted
      monthly_cap: 1.00_usd
      models:
        - {provider: deepseek, model: deepseek-chat}
        - {provider: openai, model: gpt-4o}
  failure_handling: {on_all_layers_exhausted: fail}
circuit_breaker: {failures: 2}
"""
SCRIPTS = {
    "openai/gpt-4o-mini": ModelScript(text="Free."),
    "deepseek/deepseek-chat": failing(FaultKind.SERVER_ERROR),
    "openai/gpt-4o": ModelScript(chunks=20, chunk_interval_ms=100),
}
NOBODY = Constraints(
    denied_models=["openai/gpt-4o-mini", "deepseek/deepseek-chat", "openai/gpt-4o"]
)


class Desk:
    """A connection to one worker of a server."""

    def __init__(self, channel: aio.Channel) -> None:
        self.router = router_service_pb2_grpc.RouterServiceStub(channel)
        self.operations = operations_service_pb2_grpc.OperationsServiceStub(channel)

    def begin(self, **fields: Any) -> Any:
        return self.router.Complete(ask("Say it.", **fields), timeout=WAIT_S)

    async def ask(self, **fields: Any) -> Told:
        return await listen(self.begin(**fields))

    async def status(self) -> o.GetStatusResponse:
        return await self.operations.GetStatus(o.GetStatusRequest(), timeout=WAIT_S)


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds, however long that takes."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - a log and a file have no events
            await asyncio.sleep(0.05)


async def until_told(look: Callable[[], Awaitable[object]]) -> None:
    """Wait until a server says so."""
    async with asyncio.timeout(WAIT_S):
        while not await look():  # noqa: ASYNC110 - the other worker's news come by themselves
            await asyncio.sleep(0.05)


def _met(made: World, name: str) -> list[int]:
    """Say which worker refused a task."""
    lines = made.logged("task.failed")
    return [int(str(line["worker"])) for line in lines if line["request_id"] == name]


@asynccontextmanager
async def desks(made: World, *workers: int) -> AsyncIterator[list[Desk]]:
    """Connect until these workers have been met: the kernel deals connections out as it likes."""
    found: dict[int, Desk] = {}
    async with AsyncExitStack() as stack:
        for number in range(200):
            options = [("grpc.use_local_subchannel_pool", 1), ("escalade.number", number)]
            channel = await stack.enter_async_context(
                aio.insecure_channel(made.target, options=options)
            )
            desk, name = Desk(channel), f"meet-{os.urandom(4).hex()}"
            refused = await desk.ask(request_id=name, constraints=NOBODY)
            assert refused.status is not None, refused.message
            await until(partial(_met, made, name))
            found.setdefault(_met(made, name)[0], desk)
            if found.keys() >= set(workers):
                break
        yield [found[worker] for worker in workers]


async def _read(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


def pids(made: World) -> dict[int, int]:
    """The processes of the workers: of each place the last that took it."""
    lines = made.logged("worker.started")
    return {int(str(line["worker"])): int(str(line["pid"])) for line in lines}


async def replaced(made: World, worker: int) -> None:
    """Kill a worker, and wait until another one has its place."""
    before = pids(made)[worker]
    os.kill(before, signal.SIGKILL)
    await until(lambda: pids(made)[worker] != before)


def open_reservations(folder: Path) -> object:
    [(count,)] = rows(
        folder / "state.sqlite3", "SELECT count(*) FROM reservations WHERE state = ?", OPEN
    )
    return count


async def first_delta(call: Any) -> None:
    async for response in call:
        if any(event.HasField("delta") for event in response.events):
            return


async def test_two_workers_are_one_server(tmp_path: Path) -> None:
    shown = (*TWO, "--metrics", "127.0.0.1:0")
    async with world(tmp_path, STRATEGY, SCRIPTS, options=shown) as made, desks(made, 1, 2) as met:
        one, two = met
        assert sorted(pids(made)) == [1, 2]
        assert len(made.logged("server.started")) == 1
        assert (await one.ask()).kinds[-1] == "finished"  # the only free one of the day

        # A counter is the same everywhere: the other worker escalates at once.
        watch = one.operations.WatchEvents(o.WatchEventsRequest(), timeout=WAIT_S)
        await watch.initial_metadata()
        call = two.begin(request_id="same")
        await first_delta(call)

        # What runs in one worker is seen, and not run again, in the other.
        status = await one.status()
        assert status.in_flight_count == 1
        assert [model.in_flight_count for model in status.layers[1].models] == [0, 1]
        assert (await one.ask(request_id="same")).reason == "REQUEST_IN_PROGRESS"
        assert (await listen(call)).kinds[-1] == "finished"
        assert (await one.ask(request_id="same")).reason == "ALREADY_ANSWERED"

        # The event feed is that of both.
        assert (await one.ask(request_id="mine")).kinds[-1] == "finished"
        seen: set[str] = set()
        async for response in watch:
            seen |= {e.request_id for e in response.entries if e.HasField("escalated")}
            if seen >= {"same", "mine"}:
                break
        watch.cancel()

        # A circuit that opens in one worker is open in the other: two failures in a row, of one.
        await two.ask()

        async def is_open() -> bool:
            models = (await one.status()).layers[1].models
            return bool(models[0].circuit == o.CIRCUIT_STATE_OPEN)

        await until_told(is_open)

        # The supervisor shows the metrics of both.
        metrics = await _read(f"http://{made.started['metrics']}/metrics")
        assert {f'worker="{worker}"' in metrics for worker in (1, 2)} == {True}
        told_by = [line for line in metrics.splitlines() if line.startswith("escalade_alerts_t")]
        workers = {line.partition('worker="')[2][0] for line in told_by}
        assert len(workers) == 1, "both have heard of the quota; one has told people, and counts"

        # SIGTERM drains both.
        calls = [one.begin(), two.begin()]
        for each in calls:
            await first_delta(each)
        made.ask(signal.SIGTERM)
        for each in calls:
            assert (await listen(each)).kinds[-1] == "finished"
        assert await made.stop() == 0
        assert {line["worker"] for line in made.logged("server.stopped")} == {1, 2}
    audit(tmp_path / "state.sqlite3")


async def test_a_killed_worker_is_replaced_and_its_books_are_closed(tmp_path: Path) -> None:
    async with world(tmp_path, STRATEGY, SCRIPTS, options=TWO) as made:
        async with desks(made, 1, 2) as (one, two):
            assert (await one.ask()).kinds[-1] == "finished"
            calls = [one.begin(), two.begin()]
            for each in calls:
                await first_delta(each)
            await replaced(made, 1)  # the one that had the lead
            assert (await listen(calls[1])).kinds[-1] == "finished"
            cut = await told(calls[0], ())
            assert cut.status is None
        await until(lambda: open_reservations(tmp_path) == 0)
        query = "SELECT count(*) FROM reservations WHERE state = ?"
        [(assumed,)] = rows(tmp_path / "state.sqlite3", query, ASSUMED)
        assert assumed == 1, "what the dead worker had under way is booked in full"
        async with desks(made, 1, 2) as met:
            for desk in met:
                assert (await desk.ask()).kinds[-1] == "finished"
            await _ends_without_its_supervisor(made, met)
        truth = made.account("openai", "gpt-4o").cost_nanos
    audit(tmp_path / "state.sqlite3")
    query = "SELECT sum(spent) FROM windows JOIN counters ON counter = id WHERE unit = 'nanos'"
    [(booked,)] = rows(tmp_path / "state.sqlite3", query)
    assert 0 < truth <= int(str(booked)) <= 1_000_000_000


async def _ends_without_its_supervisor(made: World, met: list[Desk]) -> None:
    """Workers that nobody watches any more drain, and let the ledger go."""
    call = met[0].begin()
    await first_delta(call)
    made.process.kill()
    await made.killed()
    assert (await listen(call)).kinds[-1] == "finished"
    await until(lambda: len(made.logged("server.stopped")) == 2)
    await until(lambda: not any(map(_lives, pids(made).values())))
    await made.start_again()
    assert made.started["ledger_is_new"] is False


async def _nothing_else_starts(made: World, folder: Path) -> None:
    """What cannot start says so once, and precisely."""
    serve = ("serve", "--strategy", str(folder / "strategy.yaml"), *TWO)
    port = made.target.rpartition(":")[2]
    assert doctor._port(int(port)).detail == f"2 workers of one server listen on port {port}"
    state = ("--state", str(folder / "other.sqlite3"))
    code, out, err = await command(*serve, "--listen", f"127.0.0.1:{port}", *state)
    assert (code, out) == (1, "")
    assert err.count("cannot listen on 127.0.0.1:") == 1
    same = ("--listen", "127.0.0.1:0", "--state", str(folder / "state.sqlite3"))
    code, out, err = await command(*serve, *same)
    assert (code, out) == (1, "")
    assert f"in use by process {made.process.pid}" in err
    code, _, err = await command(*serve, "--listen", "127.0.0.1:0", "--state", "memory:")
    assert code == 1
    assert "state in memory cannot be shared" in err


async def _all_say_why(made: World, word: str) -> None:
    """Whichever worker is asked, its status says why the file was refused, or that none is."""
    async with desks(made, 1, 2) as met:

        async def says(desk: Desk) -> bool:
            now = (await desk.status()).strategy
            said = word in now.refused_why if word else not now.refused_why
            return bool(now.refused_count) and said

        for desk in met:
            await until_told(partial(says, desk))


async def test_a_strategy_is_in_force_in_all_workers_or_in_none(tmp_path: Path) -> None:
    async with world(tmp_path, STRATEGY, SCRIPTS, options=TWO) as made:
        file = tmp_path / "strategy.yaml"
        whole = file.read_text()

        async def alike(version: str) -> None:
            async with desks(made, 1, 2) as met:
                for desk in met:
                    status = await desk.status()
                    assert status.strategy.version == version

        def taken() -> list[object]:
            return [line["worker"] for line in made.logged("strategy.reloaded")]

        def named(version: str) -> str:
            return whole.replace("strategy:\n", f"strategy:\n  version: '{version}'\n", 1)

        file.write_text(named("2.0"))
        made.process.send_signal(signal.SIGHUP)
        await until(lambda: sorted(map(str, taken())) == ["1", "2"])
        await alike("2.0")

        file.write_text("fallback_strategy: {layers: []}\n")
        made.process.send_signal(signal.SIGHUP)
        await until(lambda: made.logged("strategy.refused"))
        await _all_say_why(made, "layers")
        await replaced(made, 2)  # with what is in force, whatever the file says
        await replaced(made, 1)
        await alike("2.0")
        await _all_say_why(made, "layers")

        file.write_text(named("2.1"))  # seen by itself, by whoever has the lead now
        await until(lambda: sorted(map(str, taken())) == ["1", "1", "2", "2"])
        await alike("2.1")
        await _all_say_why(made, "")
        assert made.started["ledger_is_new"] is True
        await _nothing_else_starts(made, tmp_path)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
