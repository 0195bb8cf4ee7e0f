"""Faults S: the ledger is busy, full, broken, damaged, old or shared; the server is real."""

import asyncio
import io
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import apsw
import grpc
import pytest

from escalade_server import bootstrap
from escalade_server.bootstrap import Options, StartError
from escalade_server.provider_simulator import ModelScript
from escalade_server.stores import file, schema
from tests.api.world import Told
from tests.e2e.world import COMMAND, START_S
from tests.faults.served import PRICE, Served, served
from tests.stores.faulty_disk import FULL, FaultyDisk, failed
from tests.stores.world import audit, rows

PAID = """\
fallback_strategy:
  layers:
    - name: paid
      priority: 1
      billing: metered
      monthly_cap: $1
      models:
        - {provider: openai, model: gpt, price: {input: 1, output: 2}}
  failure_handling: {on_all_layers_exhausted: fail}
providers:
  openai: {base_url: "<openai>", api_key_env: PROVIDER_KEY}
"""
GPT = {"openai": {"gpt": ModelScript(price=PRICE)}}
SLOW = {"openai": {"gpt": ModelScript(price=PRICE, chunks=40, chunk_interval_ms=25)}}
UNSYNCED = failed(apsw.SQLITE_IOERR_FSYNC)
HOLD = (
    "import apsw, sys; c = apsw.Connection(sys.argv[1]); c.execute('BEGIN IMMEDIATE');"
    "print('held', flush=True); sys.stdin.read()"
)


def state_of(folder: Path) -> Path:
    return folder / "state.sqlite3"


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    """Every file of SQLite is on it."""
    disk = FaultyDisk(everywhere=True)
    yield disk
    disk.unregister()


@asynccontextmanager
async def busy(folder: Path) -> AsyncIterator[None]:
    """Another process is in the middle of a transaction."""
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, state_of(folder),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert other.stdout is not None
        assert await other.stdout.readline() == b"held\n"
        yield
    finally:
        other.kill()
        await other.wait()


def refused(told: Told, *words: str) -> None:
    """It was refused precisely: which status, which reason, and why."""
    assert told.code is grpc.StatusCode.UNAVAILABLE, told
    assert told.reason == "LEDGER_UNAVAILABLE"
    assert all(word in told.message for word in words), told.message


def lines(log: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def events(log: io.StringIO) -> list[object]:
    return [line["event"] for line in lines(log)]


async def begun(made: Served) -> None:
    """Wait until the provider has been asked."""
    while not made.calls():  # noqa: ASYNC110  # its ledger has nothing to wait for
        await asyncio.sleep(0.005)


async def booked(made: Served) -> int:
    """Wait until nothing is held any more; answer what is booked."""
    for _ in range(400):
        if not made.held():
            return made.booked_nanos()
        await asyncio.sleep(0.02)
    raise AssertionError(made.running.engine.spends())


@dataclass(frozen=True)
class Trouble:
    """What befalls the disk, what callers are told, and whether only a restart helps."""

    error: Exception
    only: str
    words: str
    final: bool = False


def trouble(id_: str, row: str, made: Trouble) -> object:
    return pytest.param(made, id=id_, marks=pytest.mark.fault(row))


TROUBLES = [
    trouble("full", "S2", Trouble(FULL, "", "FullError")),
    trouble("unwritable", "S2", Trouble(failed(apsw.SQLITE_IOERR_WRITE), "write", "IOError")),
    trouble("unsynced", "S3", Trouble(UNSYNCED, "sync", "restart the server", final=True)),
]


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_disk_that_refuses_a_reservation_admits_nothing(
    tmp_path: Path, disk: FaultyDisk, trouble: Trouble
) -> None:
    async with served(tmp_path, PAID, GPT) as made:
        assert (await made.ask()).code is grpc.StatusCode.OK
        disk.fail(trouble.error, trouble.only)
        for _ in range(2):
            refused(await made.ask(), trouble.words)
        assert made.calls() == {"gpt": 1}, "nobody was called"
        disk.mend()
        tried, more = disk.calls, await made.ask()
        if trouble.final:
            refused(more, trouble.words)
            assert disk.calls == tried, "what could not be synced is not written again"
        else:
            assert more.code is grpc.StatusCode.OK
        bill = made.account("openai", "gpt").cost_nanos
    async with served(tmp_path, PAID, GPT) as made:
        assert await booked(made) == bill, "what was refused holds nothing"
        assert (await made.ask()).code is grpc.StatusCode.OK
    audit(state_of(tmp_path))


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_settlement_that_the_disk_refuses_waits_in_the_journal(
    tmp_path: Path, disk: FaultyDisk, trouble: Trouble
) -> None:
    """It is durable there: the caller has its answer, and a kill loses nothing."""
    log = io.StringIO()
    async with served(tmp_path, PAID, SLOW, log=log) as made:
        call = asyncio.create_task(made.ask())
        await begun(made)
        disk.fail(trouble.error, trouble.only)
        told = await call
        assert told.code is grpc.StatusCode.OK
        cost = told.events[-1].finished.report.cost.list_nano_usd
        assert cost == made.account("openai", "gpt").cost_nanos > 0
        refused(await made.ask(), trouble.words)
        assert made.booked_nanos() == 0 < made.held()
        await asyncio.to_thread(shutil.copytree, tmp_path, tmp_path / "copy")
        disk.mend()
        if not trouble.final:
            assert await booked(made) == cost
    assert ("ledger.mended" in events(log)) is not trouble.final
    [failing] = [line for line in lines(log) if line["event"] == "ledger.failing"]
    assert trouble.words in str(failing["detail"])
    for folder in (tmp_path, tmp_path / "copy"):  # the copy is what a kill would have left
        for _ in range(2):
            async with served(folder, PAID, GPT) as made:
                assert await booked(made) == cost
        audit(state_of(folder))


@pytest.mark.fault("S2")
async def test_without_a_journal_a_settlement_waits_in_memory_and_it_is_said(
    tmp_path: Path, disk: FaultyDisk
) -> None:
    state_of(tmp_path).with_suffix(".sqlite3.spill").symlink_to("/dev/full")
    log = io.StringIO()
    async with served(tmp_path, PAID, SLOW, log=log) as made:
        call = asyncio.create_task(made.ask())
        await begun(made)
        disk.fail()
        refused(await call, "not booked yet", "memory only", "No space left")
        refused(await made.ask())
        disk.mend()
        assert await booked(made) == made.account("openai", "gpt").cost_nanos > 0
        assert (await made.ask()).code is grpc.StatusCode.OK
    told = [line for line in lines(log) if str(line["event"]).startswith("ledger.")]
    *_, failing, mended = told
    assert "memory only" in str(failing["detail"])
    assert mended["event"] == "ledger.mended"
    audit(state_of(tmp_path))


@pytest.mark.fault("S1")
async def test_s1_a_busy_ledger_is_waited_for_and_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "BUSY_MS", 2_000)
    async with served(tmp_path, PAID, GPT) as made:
        async with busy(tmp_path):
            began = time.monotonic()
            refused(await made.ask(), "BusyError")
            assert time.monotonic() - began >= 2
            assert made.calls() == {}, "nobody was called"
            waits = asyncio.create_task(made.ask())
            await asyncio.sleep(0.05)
        assert (await waits).code is grpc.StatusCode.OK, "in time is good enough"
        assert await booked(made) == made.account("openai", "gpt").cost_nanos
    audit(state_of(tmp_path))


# ----------------------------------------------------------------------------- at the start


def damage(state: Path) -> None:
    """A page that is not the first is garbage."""
    whole = state.read_bytes()
    state.write_bytes(whole[:4096] + bytes(byte ^ 0x5A for byte in whole[4096:]))


def overwrite(state: Path) -> None:
    state.write_bytes(b"this is no database" * 300)


def truncate(state: Path) -> None:
    state.write_bytes(state.read_bytes()[:9_000])


def newer(state: Path) -> None:
    rows(state, f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")


def foreign(state: Path) -> None:
    rows(state, "PRAGMA application_id = 7")


START = [
    pytest.param(damage, "damaged", id="damaged", marks=pytest.mark.fault("S4")),
    pytest.param(overwrite, "damaged", id="no database", marks=pytest.mark.fault("S4")),
    pytest.param(truncate, "damaged", id="truncated", marks=pytest.mark.fault("S4")),
    pytest.param(foreign, "another program", id="foreign", marks=pytest.mark.fault("S4")),
    pytest.param(newer, "update escalade", id="newer", marks=pytest.mark.fault("S5")),
]


@pytest.mark.parametrize(("spoil", "words"), START)
async def test_a_state_that_cannot_be_believed_is_refused_and_left_alone(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    state = state_of(tmp_path)
    async with served(tmp_path, PAID, GPT) as made:
        for _ in range(3):
            await made.ask()
    spoil(state)
    before = state.read_bytes()
    for _ in range(2):
        with pytest.raises(StartError, match=words):
            async with served(tmp_path, PAID, GPT):
                pytest.fail("it has started")
        assert state.read_bytes() == before


@pytest.mark.fault("S4")
async def test_s4_what_can_be_read_of_a_damaged_state_is_saved_on_demand(tmp_path: Path) -> None:
    state, log = state_of(tmp_path), io.StringIO()
    async with served(tmp_path, PAID, GPT) as made:
        for _ in range(3):
            await made.ask()
        spent = made.booked_nanos()
    whole = await asyncio.to_thread(state.read_bytes)
    spoiled = whole[:-4096] + bytes(4096)
    await asyncio.to_thread(state.write_bytes, spoiled)
    options = Options(str(tmp_path / "strategy.yaml"), port=0, state=str(state))
    with pytest.raises(StartError, match="escalade serve --recover"):
        await bootstrap.start(options, environ={}, log_stream=io.StringIO())
    running = await bootstrap.start(replace(options, recover=True), environ={}, log_stream=log)
    try:
        assert sum(each.spent for each in running.engine.spends()) == spent > 0
    finally:
        await running.stop()
    [told] = [line for line in lines(log) if line["event"] == "ledger.recovered"]
    [aside] = await asyncio.to_thread(lambda: list(tmp_path.glob("*.damaged-*[0-9]")))
    assert str(aside) in str(told["detail"])
    assert await asyncio.to_thread(aside.read_bytes) == spoiled
    audit(state)


@pytest.mark.fault("S5")
async def test_s5_an_older_state_is_brought_forward_with_what_was_spent(tmp_path: Path) -> None:
    async with served(tmp_path, PAID, GPT) as made:
        await made.ask()
        spent = made.booked_nanos()
    old, new = tmp_path / "old", state_of(tmp_path)
    old.mkdir()
    connection = apsw.Connection(str(state_of(old)))
    schema.migrate(connection, schema.MIGRATIONS[:1])
    connection.execute("ATTACH ? AS new", (str(new),))
    for table in ("counters", "windows", "reservations"):
        named = connection.execute("SELECT name FROM pragma_table_info(?, 'main')", (table,))
        columns = ", ".join(str(name) for (name,) in named)
        connection.execute(f"INSERT INTO main.{table} SELECT {columns} FROM new.{table}")  # noqa: S608
    connection.close()
    async with served(old, PAID, GPT) as made:
        assert made.booked_nanos() == spent > 0
        assert (await made.ask()).code is grpc.StatusCode.OK
    assert rows(state_of(old), "PRAGMA user_version") == [(len(schema.MIGRATIONS),)]
    audit(state_of(old))


@pytest.mark.fault("S6", "X9")
async def test_s6_a_second_server_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    async with served(tmp_path, PAID, GPT):
        pass
    first = await asyncio.create_subprocess_exec(
        COMMAND, "serve", "--strategy", tmp_path / "strategy.yaml", "--listen", "127.0.0.1:0",
        "--state", state_of(tmp_path), "--json", env=os.environ | {"PROVIDER_KEY": "made-up"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert first.stdout is not None
        assert b"serving" in await asyncio.wait_for(first.stdout.readline(), START_S)
        with pytest.raises(StartError, match=f"in use by process {first.pid}:.* one server"):
            async with served(tmp_path, PAID, GPT):
                pytest.fail("two servers on one state")
    finally:
        first.kill()
        await first.wait()
    async with served(tmp_path, PAID, GPT) as made:
        assert (await made.ask()).code is grpc.StatusCode.OK


@pytest.mark.fault("S7")
async def test_s7_a_library_that_loses_writes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(StartError, match=r"SQLite 3\.51\.2 can lose .* update the package apsw"):
        async with served(tmp_path, PAID, GPT):
            pytest.fail("it has started")
    assert not state_of(tmp_path).exists()
