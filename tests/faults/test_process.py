"""Faults X: a killed process, a blocked loop, dying background work, handlers that end oddly."""

import asyncio
import io
import json
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from grpc_health.v1 import health_pb2, health_pb2_grpc

import escalade
from escalade_server.api.outbox import Outbox
from escalade_server.core.catalog import Unit
from escalade_server.core.events import Reserved
from escalade_server.engine import background
from escalade_server.engine.background import Background
from escalade_server.engine.calendar import Calendar
from escalade_server.provider_simulator import ModelScript
from escalade_server.stores.sqlite import SqliteStore
from escalade_server.telemetry import watchdog
from escalade_server.telemetry.logs import make_logger
from escalade_server.telemetry.sink import LineSink
from escalade_server.telemetry.watchdog import Watchdog
from tests.api.world import ask
from tests.e2e.world import COMMAND, World, world
from tests.faults.platter import platter
from tests.faults.served import PRICE, Served, served
from tests.stores.world import (
    NOW_MS,
    USD,
    HandClock,
    audit,
    candidate,
    counter,
    reserve,
    rows,
    settle,
)

OPEN, UNCERTAIN, ASSUMED, SETTLED = range(4)
PAID = """\
fallback_strategy:
  layers:
    - name: paid
      priority: 1
      billing: metered
      monthly_cap: $1
      models:
        - {provider: openai, model: gpt, price: {input: 1, output: 2}}
"""
TEXT = " ".join(["word"] * 400)
SLOW = {"openai/gpt": ModelScript(price=PRICE, text=TEXT, chunks=40, chunk_interval_ms=20)}


@dataclass(frozen=True)
class Kill:
    """One point of death: what the provider has seen by then, and what the books must say."""

    point: str
    requests: int
    state: int
    exact: bool
    """Booked as the provider billed; else in full, which is never less."""


def killed(kill: Kill, *rows_: str) -> object:
    return pytest.param(kill, id=kill.point, marks=pytest.mark.fault(*rows_))


KILLS = [
    killed(Kill("before-send", 0, ASSUMED, exact=False), "X1"),
    killed(Kill("mid-stream", 1, ASSUMED, exact=False), "X2"),
    killed(Kill("out-of-memory", 1, ASSUMED, exact=False), "X5"),
    killed(Kill("settled", 1, SETTLED, exact=True), "X3"),
]


def booked(made: World) -> tuple[int, int]:
    """What the ledger's file says is spent and held, in nano-dollars."""
    path = made.log.parent / "state.sqlite3"
    [(spent, held)] = rows(
        path,
        "SELECT sum(spent), sum(held) FROM windows JOIN counters ON id = counter"
        " WHERE unit = 'nanos'",
    )
    return int(str(spent)), int(str(held))


@pytest.mark.parametrize("kill", KILLS)
async def test_killed_at_a_point_the_books_are_never_below_the_bill(
    tmp_path: Path, kill: Kill
) -> None:
    command = (sys.executable, "-m", "tests.faults.doomed", kill.point)
    async with world(tmp_path, PAID, SLOW, command=command) as made:
        async with escalade.AsyncClient(made.target) as client:
            call = asyncio.create_task(client.complete("Say it.", request_id="once"))
            await made.killed()
            assert not call.done(), "it tries to reach the server again, until its deadline"
            call.cancel()
            await asyncio.wait({call})
        state = tmp_path / "state.sqlite3"
        _, held = booked(made)
        assert (held > 0) is (kill.state is not SETTLED), "the reserve was durable before the call"

        await made.start_again()
        bill = made.account("openai", "gpt")
        assert bill.requests_received == kill.requests
        spent, held = booked(made)
        assert held == 0
        assert spent == bill.cost_nanos if kill.exact else spent > bill.cost_nanos
        [(kept, reserved, used)] = rows(state, "SELECT state, nanos, used_nanos FROM reservations")
        assert (kept, used) == (kill.state, spent)
        assert kill.exact or used == reserved
        audit(state)

        async with escalade.AsyncClient(made.target) as client:
            if kill.state is SETTLED:
                with pytest.raises(escalade.AlreadyAnswered):
                    await client.complete("Say it.", request_id="once")
                assert made.account("openai", "gpt") == bill
            assert (await client.complete("Say it.")).text == TEXT
        assert await made.stop() == 0
        assert booked(made) == (
            spent + made.account("openai", "gpt").cost_nanos - bill.cost_nanos,
            0,
        )
        audit(state)


# ------------------------------------------------------------------------------------------- X4

REQUESTS, MONEY = counter("requests", 1_000), counter("money", USD, Unit.NANOS)


async def outage(tmp_path: Path, synchronous: str) -> list[str]:
    """Lose power after each acknowledged order; answer what was acknowledged and is lost."""
    order, acknowledged, lost = candidate(REQUESTS, MONEY, nanos=1_000), dict[str, int](), []
    with platter() as disk:
        store = SqliteStore(tmp_path / "s.db", HandClock(), Calendar(), vfs="platter")
        await store.open([REQUESTS, MONEY])
        store._connection.execute(f"PRAGMA synchronous = {synchronous}")
        for number in range(20):
            id_ = f"r{number // 2}"
            if number % 2:
                await store.settle(settle(id_, nanos=number), NOW_MS)
                acknowledged[id_] = SETTLED
            else:
                assert isinstance(await store.reserve(reserve(id_, order), NOW_MS), Reserved)
                acknowledged[id_] = OPEN
            left = tmp_path / f"after-{number}"
            disk.lose_power(left)
            found = rows(left / "s.db", "SELECT id, state FROM reservations")
            lost += [id_ for id_, state in acknowledged.items() if (id_, state) not in found]
            audit(left / "s.db")
        await store.close()
    return lost


@pytest.mark.fault("X4")
async def test_when_the_power_goes_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    assert await outage(tmp_path, "FULL") == []


@pytest.mark.fault("X4")
async def test_with_less_than_full_it_would_be(tmp_path: Path) -> None:
    """That the test above can fail; only FULL is ever set."""
    assert await outage(tmp_path, "NORMAL") != []


# ------------------------------------------------------------------------------------------- X6


class Logged:
    """A log in memory."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.sink = LineSink(self.stream)
        self.log = make_logger(self.sink, self.stream, "json", "debug")

    def lines(self, event: str) -> list[Mapping[str, object]]:
        self.sink.close()
        found = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]


def hog(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.fault("X6")
async def test_a_blocked_loop_is_measured_and_the_place_is_named() -> None:
    logged = Logged()
    dog = Watchdog(logged.log)
    running = asyncio.create_task(dog.run())
    await asyncio.sleep(0.1)
    hog(0.8)
    assert dog.is_alive, "a stall of less than 30 s is no death"
    await asyncio.sleep(0.1)
    running.cancel()
    [ours] = [line for line in logged.lines("loop.stalled") if " hog" in str(line["where"])]
    assert 700 <= int(str(ours["stalled_ms"])) <= dog.longest_ms
    assert logged.lines("loop.dead") == []


@pytest.mark.fault("X6")
async def test_only_a_loop_that_is_stuck_for_long_counts_as_dead() -> None:
    assert watchdog.DEAD_S == 30
    assert watchdog.STALL_S == 0.25
    logged = Logged()
    dog = Watchdog(logged.log, stall_s=0.1, dead_s=0.5)
    running = asyncio.create_task(dog.run())
    await asyncio.sleep(0.1)

    seen = threading.Event()

    def look() -> None:
        while dog.is_alive or "loop.dead" not in logged.stream.getvalue():
            time.sleep(0.01)
        seen.set()

    def hog_until_seen() -> bool:
        return seen.wait(30)

    threading.Thread(target=look, daemon=True).start()
    assert hog_until_seen(), "seen from another thread, while the loop hung"
    async with asyncio.timeout(30):
        while not dog.is_alive:  # noqa: ASYNC110 - it lives by beating
            await asyncio.sleep(0.01)
    running.cancel()
    assert len(logged.lines("loop.dead")) >= 1
    assert any("hog" in str(line["where"]) for line in logged.lines("loop.dead"))


@pytest.mark.fault("X6")
async def test_the_server_has_a_watchdog(tmp_path: Path) -> None:
    async with served(tmp_path, PAID + PROVIDER, SCRIPTS) as made:
        await asyncio.sleep(0.2)
        before = made.running.watchdog.longest_ms
        hog(0.6)
        assert (await made.ask()).events[-1].HasField("finished")
        assert made.running.watchdog.longest_ms >= max(500, before)
        assert made.running.watchdog.is_alive


# ------------------------------------------------------------------------------------------- X7

PROVIDER = """providers:
  openai: {base_url: <openai>, api_key_env: PROVIDER_KEY}
"""
SCRIPTS = {"openai": {"gpt": ModelScript(price=PRICE, chunks=10, chunk_interval_ms=30)}}


@pytest.mark.fault("X7")
@pytest.mark.looptime
async def test_work_that_dies_is_started_again_and_missed_after_three_deaths() -> None:
    deaths: list[Exception] = []
    ready: list[tuple[float, bool]] = []
    loop = asyncio.get_running_loop()
    lives = 0

    def mistakes(error: Exception) -> str:
        deaths.append(error)
        return ""

    async def told(*, well: bool) -> None:
        ready.append((loop.time(), well))

    async def work() -> None:
        nonlocal lives
        lives += 1
        if lives <= 4:
            raise ZeroDivisionError
        if lives == 5:
            await asyncio.sleep(70)  # long enough to be trusted again
            return
        await asyncio.sleep(1e9)

    async def sound() -> None:
        await asyncio.sleep(1e9)

    kept = Background(mistakes, told)
    kept.start(work)
    kept.start(sound)
    await asyncio.sleep(3_600)
    assert lives == 6
    assert [type(death).__name__ for death in deaths] == [
        *["ZeroDivisionError"] * 3, "WorkEndedError", "ZeroDivisionError", "WorkEndedError",
    ]  # fmt: skip
    third = (background.DEATHS_MAX - 1) * background.RESTART_S
    trusted = 4 * background.RESTART_S + background.SOUND_S
    assert ready == [(third, False), (trusted, True)]
    await kept.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def until_health(made: Served, status: int) -> None:
    """Watch the health of the server until it is this."""
    stub = health_pb2_grpc.HealthStub(made.channel)
    async for told in stub.Watch(health_pb2.HealthCheckRequest(), timeout=60):
        if told.status == status:
            return


@pytest.mark.fault("X7")
async def test_a_server_whose_sweeper_keeps_dying_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "RESTART_S", 0.01)
    monkeypatch.setattr(background, "SOUND_S", 0.5)
    broken = True

    async def sweeper(self: Watchdog) -> None:
        if broken:
            raise ZeroDivisionError
        await asyncio.sleep(1e9)

    monkeypatch.setattr(Watchdog, "run", sweeper)
    serving = health_pb2.HealthCheckResponse
    async with served(tmp_path, PAID + PROVIDER, SCRIPTS) as made:
        await until_health(made, serving.NOT_SERVING)
        assert (await made.ask()).events[-1].HasField("finished"), "who calls is served"
        broken = False
        await until_health(made, serving.SERVING)


# ------------------------------------------------------------------------------------------- X8


async def bill(made: Served) -> int:
    """What the provider charged, once it has noticed that nobody listens any more."""
    while (account := made.account("openai", "gpt")).streams_open:  # noqa: ASYNC110 - it says no more
        await asyncio.sleep(0.01)
    return account.cost_nanos


ENDINGS = [
    (cygrpc.ExecuteBatchError, grpc.StatusCode.CANCELLED, "delta"),
    (asyncio.CancelledError, grpc.StatusCode.INTERNAL, "failed"),
    (GeneratorExit, grpc.StatusCode.INTERNAL, "delta"),
    (SystemExit, grpc.StatusCode.INTERNAL, "failed"),
    (MemoryError, grpc.StatusCode.INTERNAL, "failed"),
    (RecursionError, grpc.StatusCode.INTERNAL, "failed"),
]


@pytest.mark.fault("X8")
@pytest.mark.parametrize(("kind", "code", "last"), ENDINGS, ids=str)
async def test_however_a_handler_ends_its_task_is_settled_and_the_call_is_over(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[BaseException],
    code: grpc.StatusCode,
    last: str,
) -> None:
    take, turns = Outbox.take, 0

    async def broken(self: Outbox) -> object:
        nonlocal turns
        turns += 1
        if turns == 3:
            raise kind("made up for the test")
        return await take(self)

    async with served(tmp_path, PAID + PROVIDER, SCRIPTS) as made:
        monkeypatch.setattr(Outbox, "take", broken)
        told = await asyncio.wait_for(made.ask(), 30)
        assert (told.code, told.kinds[-1]) == (code, last)
        assert "made up" not in told.message
        loop = asyncio.get_running_loop()
        since = loop.time()
        await made.running.engine.drain()
        assert loop.time() - since < 10
        assert made.held() == 0
        assert made.booked_nanos() >= await bill(made) > 0
        assert (await made.ask()).events[-1].HasField("finished"), "the server goes on"


@pytest.mark.fault("X8")
async def test_a_caller_who_cancels_is_settled_behind_a_shield(tmp_path: Path) -> None:
    """The transport's own cancellation reaches the handler; the settlement is not its task."""
    async with served(tmp_path, PAID + PROVIDER, SCRIPTS) as made:
        call = made.router.Complete(ask("Say it."))
        async for response in call:
            if any(event.HasField("delta") for event in response.events):
                break
        call.cancel()
        await asyncio.wait_for(made.running.engine.drain(), 10)
        assert made.held() == 0
        assert made.booked_nanos() >= await bill(made) > 0


# ------------------------------------------------------------------------------------------- X9


@pytest.mark.fault("X9")
async def test_a_second_server_gets_neither_the_port_nor_the_ledger(tmp_path: Path) -> None:
    async with world(tmp_path, PAID, SLOW) as made:
        port = made.target.rpartition(":")[2]
        for listen, state, why in (
            (port, "other.sqlite3", "cannot listen on"),
            ("0", "state.sqlite3", "in use by process"),
        ):
            second = await asyncio.create_subprocess_exec(
                COMMAND, "serve", "--strategy", tmp_path / "strategy.yaml",
                "--listen", f"127.0.0.1:{listen}", "--state", tmp_path / state,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            out, _ = await asyncio.wait_for(second.communicate(), 120)
            assert second.returncode not in {0, None}
            assert why in " ".join(out.decode().split())
        async with escalade.AsyncClient(made.target) as client:
            answers = await asyncio.gather(*(client.complete(f"Say {n}.") for n in range(3)))
        assert made.account("openai", "gpt").requests_received == len(answers)


@pytest.mark.fault("X9")
async def test_who_comes_after_owns_only_its_own_reservations(tmp_path: Path) -> None:
    """Each life of the process is an owner of its own; a dead one's are closed by the next."""
    owners = []
    for _ in range(2):
        async with served(tmp_path, PAID + PROVIDER, SCRIPTS) as made:
            await made.ask()
        owners += rows(tmp_path / "state.sqlite3", "SELECT max(id) FROM owners")
    found = rows(tmp_path / "state.sqlite3", "SELECT owner FROM reservations ORDER BY number")
    assert found == owners
    assert owners[0] != owners[1]
