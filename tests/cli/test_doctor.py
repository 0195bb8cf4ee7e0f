"""`escalade doctor`: each check can say yes and no, and the exit code tells which."""

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from escalade_server import bootstrap
from escalade_server.bootstrap import Found, Mark, Patient, doctor, examine
from escalade_server.provider_simulator import ModelScript, ProviderScript, Scenario, Simulator
from tests.cli.commands import run

STRATEGY = """\
fallback_strategy:
  layers:
    - name: only
      priority: 1
      models: [{provider: openai, model: gpt, billing: free}]
providers:
  openai: {base_url: %s, api_key_env: DOCTORS_KEY}
"""


def strategy(folder: Path, url: str = "http://127.0.0.1:9/v1") -> str:
    file = folder / "strategy.yaml"
    file.write_text(STRATEGY % url)
    return str(file)


def patient(folder: Path, **said: object) -> Patient:
    values: dict[str, object] = {
        "strategy": None, "state": str(folder / "state.db"), "address": None, "port": 1,
        "stream_s": 0.5, "token": None, "authority": None,
    }  # fmt: skip
    return Patient(**(values | said))  # type: ignore[arg-type]


async def examined(who: Patient) -> dict[str, Found]:
    return {found.check: found async for found in examine(who)}


@pytest.mark.parametrize(("key", "mark"), [("sk-1", Mark.OK), ("", Mark.FAILED)])
async def test_keys_and_clocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, mark: Mark
) -> None:
    monkeypatch.setenv("DOCTORS_KEY", key)
    script = ProviderScript(models={"gpt": ModelScript()})
    simulator = Simulator(Scenario(providers={"openai": script}))
    await simulator.start()
    try:
        file = strategy(tmp_path, simulator.provider_url("openai"))
        found = await examined(patient(tmp_path, strategy=file))
    finally:
        await simulator.stop()
    assert found["key"].mark is mark
    assert found["clock"].mark is Mark.OK
    assert found["strategy"].mark is Mark.OK
    assert simulator.ledger().of("openai", "gpt").requests_received == 0


@pytest.mark.parametrize(
    ("ahead_s", "mark"), [(0, Mark.OK), (30, Mark.WARNING), (-3_000, Mark.FAILED)]
)
async def test_a_clock_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: int, mark: Mark
) -> None:
    monkeypatch.setenv("DOCTORS_KEY", "sk-1")
    simulator = Simulator(Scenario(providers={"openai": ProviderScript(models={})}))
    await simulator.start()
    monkeypatch.setattr(doctor, "_wall_s", lambda: time.time() + ahead_s)
    try:
        file = strategy(tmp_path, simulator.provider_url("openai"))
        found = await examined(patient(tmp_path, strategy=file))
    finally:
        await simulator.stop()
    assert found["clock"].mark is mark, found["clock"]


async def test_a_store_is_tried_beside_the_ledger_and_leaves_nothing(tmp_path: Path) -> None:
    found = await examined(patient(tmp_path))
    assert found["store"].mark is Mark.OK
    assert "not there yet" in found["store"].detail
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing to wait for
    (tmp_path / "state.db").write_text("no ledger at all, to be sure\n" * 100)
    assert (await examined(patient(tmp_path)))["store"].mark is Mark.FAILED
    gone = patient(tmp_path, state=str(tmp_path / "nowhere" / "state.db"))
    assert (await examined(gone))["store"].mark is Mark.FAILED


async def test_who_listens_on_the_port(tmp_path: Path) -> None:
    with closing(socket.socket()) as one, closing(socket.socket()) as two:
        for each in (one, two):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        assert "nobody" in (await examined(patient(tmp_path, port=port)))["port"].detail
        one.listen()
        found = (await examined(patient(tmp_path, port=port)))["port"]
        assert found.mark is Mark.OK
        assert str(os.getpid()) in found.detail
        two.bind(("127.0.0.1", port))
        two.listen()
        assert (await examined(patient(tmp_path, port=port)))["port"].mark is Mark.WARNING


@asynccontextmanager
async def server(folder: Path, environ: Mapping[str, str]) -> AsyncIterator[str]:
    options = bootstrap.Options(
        strategy=strategy(folder), port=0, state=str(folder / "served.db"), grace_s=0.1
    )
    running = await bootstrap.start(options, environ=environ)
    try:
        yield running.target
    finally:
        await running.stop()


@asynccontextmanager
async def proxy(target: str, cut_s: float) -> AsyncIterator[str]:
    """Pass bytes on both ways, and cut every connection after a time."""
    host, _, port = target.rpartition(":")
    tasks = set[asyncio.Task[None]]()

    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other = await asyncio.open_connection(host, int(port))
        ways = [pass_on(reader, other), pass_on(other_reader, writer)]
        done = [asyncio.create_task(way) for way in ways]
        tasks.update(done)
        await asyncio.wait(done, timeout=cut_s)
        for way in done:
            way.cancel()
        writer.transport.abort()
        other.transport.abort()

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with made:
        yield f"127.0.0.1:{made.sockets[0].getsockname()[1]}"


async def test_a_stream_is_held_through_an_address_or_cut_by_what_is_between(
    tmp_path: Path,
) -> None:
    async with server(tmp_path, {}) as target, proxy(target, cut_s=1.0) as between:
        straight = await examined(patient(tmp_path, address=target))
        cut = await examined(patient(tmp_path, address=between, stream_s=20.0))
    assert straight["stream"].mark is Mark.OK
    assert cut["stream"].mark is Mark.FAILED
    assert "cut a stream" in cut["stream"].detail
    gone = await examined(patient(tmp_path, address=target))
    assert gone["stream"].mark is Mark.UNREACHABLE


def test_exit_codes_and_json(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state.db"), "--port", "1", "--json")
    fine = run("doctor", *state)
    assert fine.exit_code == 0
    told = json.loads(fine.stdout)
    assert told["ok"] is True
    assert {c["check"]: c["result"] for c in told["checks"]} == {
        "sqlite": "ok", "strategy": "skipped", "store": "ok", "port": "ok", "stream": "skipped",
    }  # fmt: skip
    assert run("doctor", *state, "--address", "127.0.0.1:1").exit_code == 3
    bad = run("doctor", *state, "--strategy", str(tmp_path / "none.yaml"))
    assert bad.exit_code == 1
    table = run("doctor", "--state", str(tmp_path / "state.db"), "--port", "1").stdout
    assert "SQLite" in table
