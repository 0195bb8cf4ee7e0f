"""The composition root: what is started, what cannot be, and the order in which it stops."""

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import escalade
from escalade_server import bootstrap
from escalade_server.bootstrap import Options, Running, StartError, StrategyErrors
from escalade_server.bootstrap.state import state_path
from escalade_server.core.facts import Fact, Outcome
from escalade_server.core.task import Request
from escalade_server.engine.ports import Observer
from escalade_server.provider_simulator import Simulator, default_scenario

STRATEGIES = Path(__file__).resolve().parents[1] / "strategies"
ONE_MODEL = """\
fallback_strategy:
  layers:
    - name: only
      models:
        - provider: openai
          model: gpt-4o-mini
          rate_limit: 50/day
      priority: 1
providers:
  openai:
    base_url: {url}
"""
NOBODY = "http://127.0.0.1:1/v1"
KEYS = {"OPENAI_API_KEY": "made-up"}


class Watcher:
    """An observer that keeps the names of what it sees."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def fact(self, _task_id: str, _request: Request, fact: Fact, _now_ms: int) -> None:
        self.seen.append(type(fact).__name__)

    def ended(self, _task_id: str, _request: Request, outcome: Outcome) -> None:
        self.seen.append(type(outcome).__name__)


def options(folder: Path, url: str, *, port: int = 0, state: str | None = None) -> Options:
    strategy = folder / "strategy.yaml"
    strategy.write_text(ONE_MODEL.format(url=url))
    state = state or str(folder / "state.sqlite3")
    return Options(strategy=str(strategy), port=port, state=state, grace_s=1.0)


@asynccontextmanager
async def serving(
    told: Options, log: io.StringIO | None = None, *, observers: tuple[Observer, ...] = ()
) -> AsyncIterator[Running]:
    running = await bootstrap.start(
        told, environ=KEYS, observers=observers, log_stream=log or io.StringIO()
    )
    try:
        yield running
    finally:
        await running.stop()


@asynccontextmanager
async def simulated() -> AsyncIterator[Simulator]:
    simulator = Simulator(default_scenario())
    await simulator.start()
    try:
        yield simulator
    finally:
        await simulator.stop()


def events(log: io.StringIO) -> list[str]:
    """Name the lines in order, but those of a machine that was busy elsewhere."""
    logged = [json.loads(line)["event"] for line in log.getvalue().splitlines()]
    return [event for event in logged if event != "loop.stalled"]


async def test_it_serves_and_stops_in_order(tmp_path: Path) -> None:
    log, watcher = io.StringIO(), Watcher()
    async with simulated() as simulator:
        told = options(tmp_path, simulator.provider_url("openai"))
        async with (
            serving(told, log, observers=(watcher,)) as running,
            escalade.AsyncClient(running.target) as client,
        ):
            assert running.ledger_is_new
            assert running.target.startswith("127.0.0.1:")
            answer = await client.complete("Say something.")
            status = await client.status()
            await running.stop()  # and once more at the end of the block
    assert answer.model == "gpt-4o-mini"
    assert status.version == bootstrap.version()
    assert len(status.strategy.sha256) == 64
    assert watcher.seen == ["Assessed", "Selected", "Finished"]
    logged = events(log)
    assert logged[0] == "strategy.loaded"
    assert "ledger.new" in logged
    assert logged[-3:] == ["server.started", "server.draining", "server.stopped"]
    assert running.engine.running == 0


async def test_a_ledger_that_is_there_is_not_new(tmp_path: Path) -> None:
    for is_new in (True, False):
        log = io.StringIO()
        async with serving(options(tmp_path, NOBODY), log) as running:
            assert running.ledger_is_new is is_new
        assert ("ledger.new" in events(log)) is is_new


async def test_a_model_without_key_is_said_and_does_not_stop_the_start(tmp_path: Path) -> None:
    log = io.StringIO()
    only = Options(
        strategy=str(STRATEGIES / "fallback-v2.yaml"), port=0, state=str(tmp_path / "s.sqlite3")
    )
    running = await bootstrap.start(only, environ={}, log_stream=log)
    await running.stop()
    assert bootstrap.missing_keys(running.loaded)["openai", "default"] == "set OPENAI_API_KEY"
    assert events(log).count("model.unavailable") == 7


async def test_a_taken_port_leaves_nothing_behind(tmp_path: Path) -> None:
    async with serving(options(tmp_path, NOBODY, state="memory:")) as first:
        port = int(first.target.rpartition(":")[2])
        taken = options(tmp_path, NOBODY, port=port)
        with pytest.raises(StartError, match="choose a free port"):
            await bootstrap.start(taken, environ=KEYS, log_stream=io.StringIO())
    async with serving(taken) as again:  # the state of the failed start is free again
        assert again.target == first.target


async def test_other_machines_are_not_let_in(tmp_path: Path) -> None:
    open_to_all = options(tmp_path, NOBODY)
    beyond = Options(strategy=open_to_all.strategy, host="0.0.0.0", port=0, state="memory:")
    with pytest.raises(StartError, match=r"127\.0\.0\.1"):
        await bootstrap.start(beyond, environ=KEYS, log_stream=io.StringIO())


async def test_a_damaged_state_is_left_as_it_is(tmp_path: Path) -> None:
    state = tmp_path / "state.sqlite3"
    state.write_bytes(b"this is no database, and must not be wiped" * 100)
    before = state.read_bytes()
    with pytest.raises(StartError, match="damaged or no database"):
        await bootstrap.start(options(tmp_path, NOBODY), environ=KEYS, log_stream=io.StringIO())
    assert state.read_bytes() == before


@pytest.mark.fault("G8")
async def test_a_bad_strategy_starts_nothing(tmp_path: Path) -> None:
    strategy = tmp_path / "bad.yaml"
    strategy.write_text("fallback_strategy: {layers: []}\n")
    with pytest.raises(StrategyErrors):
        await bootstrap.start(
            Options(strategy=str(strategy), port=0, state=str(tmp_path / "s.sqlite3")),
            environ={},
            log_stream=io.StringIO(),
        )
    assert not (tmp_path / "s.sqlite3").exists()


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ("escalade.sqlite3", "escalade.sqlite3"),
        ("/var/lib/e.sqlite3", "/var/lib/e.sqlite3"),
        ("sqlite:e.sqlite3", "e.sqlite3"),
        ("sqlite:///var/lib/e.sqlite3", "/var/lib/e.sqlite3"),
        ("memory:", None),
    ],
)
def test_where_the_state_lives(state: str, path: str | None) -> None:
    assert state_path(state) == path


def test_a_store_that_is_not_built_is_refused() -> None:
    with pytest.raises(StartError, match="etcd: is not built"):
        state_path("etcd://localhost/0")
