"""A server makes the report of a day that has ended: kept, one line of the log, one of the feed."""

import asyncio
import io
import json
from pathlib import Path

import apsw

import escalade
from escalade_server import bootstrap
from escalade_server.bootstrap import Options
from escalade_server.core.commands import Reserve, Settle
from escalade_server.core.failure import DAY_MS
from escalade_server.core.tally import Tally
from escalade_server.core.task import Basis, Usage
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.clock import SystemClock
from escalade_server.stores.sqlite import SqliteStore
from tests.stores.world import candidate, counter

STRATEGY = """\
fallback_strategy:
  layers:
    - name: only
      models: [{provider: openai, model: gpt-4o-mini}]
      priority: 1
  monitoring: {daily_usage_report: WANTED}
"""
PATIENCE_S = 10.0
LOOK_S = 0.02


async def used_before(path: Path) -> None:
    """Leave a ledger in which one call was made two days ago."""
    clock, daily = SystemClock(), counter("daily", 50)
    ago_ms = clock.now_ms() - 2 * DAY_MS
    store = SqliteStore(path, Ago(ago_ms), Calendar())
    await store.open((daily,))
    await store.reserve(Reserve("a", 1, (candidate(daily),), "bot", task_type="debug"), ago_ms)
    tally = Tally("bot", "debug", "layer", "p/a/m0")
    usage = Usage(60, 40)
    order = Settle("a", 1, 1, 100, 10, 10, Basis.REPORTED, usage=usage, tally=tally)
    await store.settle(order, ago_ms)
    await store.close()


class Ago:
    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms

    def now_ms(self) -> int:
        return self.at_ms


async def served(folder: Path, wanted: str, seconds: float) -> tuple[list[dict[str, object]], str]:
    """Serve for some time, or until a report is made; answer its log lines and what is kept."""
    path = folder / "state.sqlite3"
    await used_before(path)
    strategy = folder / "strategy.yaml"
    strategy.write_text(STRATEGY.replace("WANTED", wanted))
    log = io.StringIO()
    told = Options(strategy=str(strategy), port=0, state=str(path), grace_s=1.0)
    running = await bootstrap.start(told, environ={"OPENAI_API_KEY": "x"}, log_stream=log)
    try:
        for _ in range(round(seconds / LOOK_S)):
            if "report.made" in log.getvalue():
                break
            await asyncio.sleep(LOOK_S)
    finally:
        async with escalade.AsyncClient(running.target) as client:
            report = await client.usage_report()
        await running.stop()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    connection = apsw.Connection(str(path))
    kept = connection.execute("SELECT group_concat(report) FROM reports").get
    feed = connection.execute("SELECT count(*) FROM events WHERE kind = 'report'").get
    connection.close()
    assert feed == (1 if kept else 0)
    assert report.time_zone == "UTC"
    return [line for line in lines if line["event"] == "report.made"], str(kept or "")


async def test_the_report_of_an_ended_day_is_made_kept_and_announced(tmp_path: Path) -> None:
    [line], kept = await served(tmp_path, "true", PATIENCE_S)
    assert (line["tasks"], line["charged_nano_usd"]) == (1, 10)
    found = json.loads(kept)
    assert found["period"] == line["day"]
    assert found["by_agent"][0]["name"] == "bot"
    assert found["total"]["input_tokens"] == 60


async def test_none_is_made_unless_the_strategy_wants_it(tmp_path: Path) -> None:
    assert await served(tmp_path, "false", 0.5) == ([], "")
