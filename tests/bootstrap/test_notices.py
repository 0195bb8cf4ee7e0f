"""The whole way: a task, its alert in feed, log and webhook, and nothing of its prompt."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web

from escalade.v1 import escalation_pb2, operations_service_pb2_grpc
from escalade.v1.operations_service_pb2 import FeedEntry, WatchEventsRequest
from escalade_server.bootstrap import Options, start
from escalade_server.notify import fold
from escalade_server.provider_simulator import ModelScript
from tests.faults.served import KEY, PRICE, Served, served
from tests.notify.receiver import Receiver, receiving

CANARY = "canary-4711-of-the-prompt"
STRATEGY = """
fallback_strategy:
  layers:
    - name: free
      models: [{{provider: openai, model: first, rate_limit: 5/day}}]
    - name: plan
      models:
        - {{provider: deepseek, model: second, monthly_cap: 1_usd, price: {{input: 1, output: 2}}}}
  escalation_logic: {{budget_alert: {alert}}}
  monitoring: {{alert_at_budget_percent: [60, 100]}}
providers:
  openai: {{base_url: <openai>, api_key_env: {key}}}
  deepseek: {{base_url: <deepseek>, api_key_env: {key}}}
notifications:
  webhooks: [{{url_file: hook.txt, secret_file: secret.txt}}]
"""


def strategy(folder: Path, receiver: Receiver, alert: str = "notify_user") -> str:
    for name, text in (("hook.txt", receiver.url), ("secret.txt", "signing-key")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    return STRATEGY.format(key=KEY, alert=alert)


def providers() -> dict[str, dict[str, ModelScript]]:
    return {
        "openai": {"first": ModelScript()},
        "deepseek": {"second": ModelScript(price=PRICE)},
    }


def watch(world: Served, cursor: str = "0.0") -> Any:
    stub = operations_service_pb2_grpc.OperationsServiceStub(world.channel)
    return stub.WatchEvents(WatchEventsRequest(cursor=cursor))


async def feed_of(world: Served, count: int) -> list[FeedEntry]:
    """Read the feed from its begin until there are so many entries."""
    try:
        async for _ in watch(world):
            pass
        begin = ""
    except grpc.aio.AioRpcError as error:
        begin = (error.details() or "").partition("the oldest is ")[2].partition(";")[0]
    found: list[FeedEntry] = []
    call = watch(world, begin)
    async with asyncio.timeout(30):
        while len(found) < count:
            found += (await call.read()).entries
    call.cancel()
    return found


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "GATHER_MS", 0)


def kinds(receiver: Receiver) -> list[str]:
    return [json.loads(body)["kind"] for body in receiver.bodies]


async def test_a_quota_is_told_at_its_marks_in_feed_log_and_webhook(tmp_path: Path) -> None:
    log = io.StringIO()
    async with (
        receiving() as receiver,
        served(tmp_path, strategy(tmp_path, receiver), providers(), log) as world,
    ):
        for _ in range(7):
            await world.ask(f"Parse this: {CANARY}")
        # 3 of 5, then 5 of 5, then two tasks that escalate: an entry each, and their ends.
        entries = await feed_of(world, 6)
        await receiver.until(3)
        bodies = [json.loads(body) for body in receiver.bodies]

    quotas = [e.alert for e in entries if e.alert.kind == escalation_pb2.ALERT_KIND_QUOTA]
    assert [(alert.percent, alert.quota.spent, alert.quota.limit) for alert in quotas] == [
        (60, 3, 5), (100, 5, 5),
    ]  # fmt: skip
    assert quotas[0].target.layer == "free"
    ups = [entry.escalated for entry in entries if entry.HasField("escalated")]
    assert [(up.from_layer, up.to_layer) for up in ups] == [("free", "plan")] * 2
    ends = [entry.task_ended for entry in entries if entry.HasField("task_ended")]
    assert [end.answered for end in ends] == [True, True]
    assert [body["facts"].get("percent") for body in bodies if body["kind"] == "alert.quota"] == [
        60, 100,
    ]  # fmt: skip
    assert all("escalade-signature" in headers for headers in receiver.headers)
    assert log.getvalue().count('"notice"') >= 3
    told = f"{entries}{receiver.bodies}{log.getvalue()}"
    assert CANARY not in told
    assert receiver.url not in told
    assert "signing-key" not in told


@asynccontextmanager
async def echoing() -> AsyncIterator[str]:
    """A provider that refuses in many ways, and quotes what it was sent each time."""
    statuses = cycle((500, 429, 403, 503, 529, 418))

    async def refuse(request: web.Request) -> web.Response:
        said = (await request.read()).decode()
        error = {"message": said, "type": said, "code": said[:200]}
        return web.json_response({"error": error}, status=next(statuses))

    app = web.Application()
    app.router.add_post("/{rest:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_provider_that_quotes_the_prompt_is_not_quoted(tmp_path: Path) -> None:
    """Failures, escalations, cooldowns, ends: what a provider says of a prompt stays out of all."""
    log = io.StringIO()
    async with receiving() as receiver, echoing() as url:
        text = strategy(tmp_path, receiver).replace("<openai>", url)
        async with served(tmp_path, text, providers(), log) as world:
            for _ in range(6):
                await world.ask(f"Parse this: {CANARY}")
                world.leap(3_600_000)
            told = await feed_of(world, 8)
            await receiver.until(2)
    assert {entry.WhichOneof("kind") for entry in told} >= {"escalated", "task_ended"}
    assert CANARY not in f"{told}{receiver.bodies}{log.getvalue()}"


@pytest.mark.parametrize(
    ("alert", "hooked", "entries"),
    [("notify_user", True, True), ("log", False, True), ("off", False, False)],
)
async def test_budget_alert_has_three_values(
    tmp_path: Path,
    alert: str,
    hooked: bool,  # noqa: FBT001 - a table's column
    entries: bool,  # noqa: FBT001 - as above
) -> None:
    log = io.StringIO()
    async with (
        receiving() as receiver,
        served(tmp_path, strategy(tmp_path, receiver, alert), providers(), log) as world,
    ):
        for _ in range(6):
            await world.ask()
        found = await feed_of(world, 2)
        await receiver.until(1)  # the sixth escalates, which is told in any case
        seen = kinds(receiver)
    assert ("alert.quota" in seen) is hooked
    assert any(entry.HasField("alert") for entry in found) is entries
    assert ("60 % used" in log.getvalue()) is entries


async def test_a_hook_that_hangs_delays_no_task_and_no_stop(tmp_path: Path) -> None:
    async with (
        receiving(0) as receiver,
        served(tmp_path, strategy(tmp_path, receiver), providers()) as world,
    ):
        for _ in range(8):
            answer = await world.ask()
            assert answer.code is grpc.StatusCode.OK
        await receiver.until(1)
        async with asyncio.timeout(20):
            await world.running.stop()


async def test_what_could_not_be_sent_is_sent_after_the_next_start(tmp_path: Path) -> None:
    async with receiving(0) as receiver:
        text = strategy(tmp_path, receiver)
        async with served(tmp_path, text, providers()) as world:
            for _ in range(3):
                await world.ask()
            await receiver.until(1)
        receiver.answers[:] = [200]
        file = tmp_path / "strategy.yaml"
        options = Options(str(file), port=0, state=str(tmp_path / "state.sqlite3"), grace_s=1.0)
        running = await start(options, environ={KEY: "made-up"}, log_stream=io.StringIO())
        await receiver.until(2)
        await running.stop()
    first, second = (headers["escalade-notice"] for headers in receiver.headers)
    assert first == second
