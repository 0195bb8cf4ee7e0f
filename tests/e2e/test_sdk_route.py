"""The SDK's `route()` over real processes: the caller calls simulated providers by itself (R32)."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

import escalade
from escalade.v1 import operations_service_pb2 as o
from escalade_server.core.money import cost_nanos
from escalade_server.core.task import Usage
from escalade_server.provider_simulator import FaultKind, ModelScript
from tests.api.route_world import COST_NANOS, KEYS, RESERVE_NANOS, STRATEGY
from tests.e2e.world import COMMAND, START_S, World, failing, world

DEBUG = escalade.Task("debug", tokens=4_000)
PARSE = escalade.Task("parse", tokens=100)
MINI = "openai/gpt-4o-mini"
USED = escalade.Usage(1_000, 200)


def asked(made: World, choice: escalade.Choice | escalade.AsyncChoice) -> httpx.Request:
    """Write what the provider of a choice is asked, in its dialect."""
    body = {
        "model": choice.wire_model,
        "max_tokens": choice.max_output_tokens,
        "messages": [{"role": "user", "content": "Why?"}],
    }
    path = "messages" if choice.dialect == "anthropic" else "chat/completions"
    headers = {"x-api-key": "k", "authorization": "Bearer k", "anthropic-version": "2023-06-01"}
    url = f"{made.simulator.provider_url(choice.provider)}/{path}"
    return httpx.Request("POST", url, json=body, headers=headers)


async def routed(
    made: World, task: escalade.Task, kind: str
) -> tuple[list[str], list[escalade.Announcement], escalade.Answer]:
    """Do a task by either client; answer the models called, what was told, and the result."""

    def in_a_thread() -> tuple[list[str], list[escalade.Announcement], escalade.Answer | None]:
        called = []
        with (
            httpx.Client() as http,
            escalade.Client(made.target) as client,
            client.route(task, max_output_tokens=500, timeout=20) as route,
        ):
            for choice in route:
                with choice.attempt() as attempt:
                    called.append(choice.model)
                    response = http.send(asked(made, choice))
                    attempt.ok(response.raise_for_status().json())
        return called, route.events, route.result

    async def in_a_task() -> tuple[list[str], list[escalade.Announcement], escalade.Answer | None]:
        called = []
        async with (
            httpx.AsyncClient() as http,
            escalade.AsyncClient(made.target) as client,
            client.route(task, max_output_tokens=500, timeout=20) as route,
        ):
            async for choice in route:
                async with choice.attempt() as attempt:
                    called.append(choice.model)
                    response = await http.send(asked(made, choice))
                    attempt.ok(response.raise_for_status().json())
        return called, route.events, route.result

    done = await (asyncio.to_thread(in_a_thread) if kind == "sync" else in_a_task())
    called, events, result = done
    assert result is not None
    return called, events, result


def cap(status: o.GetStatusResponse) -> tuple[int, int]:
    """Spent and held of the cap of the paid layer."""
    (quota,) = status.layers[1].quotas
    return quota.spent, quota.held


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_was_used_is_booked_to_the_nano(tmp_path: Path, kind: str) -> None:
    async with (
        world(tmp_path, STRATEGY) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        called, _, result = await routed(made, DEBUG, kind)
        (attempt,) = result.attempts
        used = Usage(attempt.usage.input_tokens, attempt.usage.output_tokens, 0, 0, 0)
        worth = cost_nanos(used, made.model("anthropic", "claude-3-haiku").price)

        assert called == ["claude-3-haiku"]
        assert (attempt.status, attempt.basis, attempt.finish_reason) == ("OK", "REPORTED", "STOP")
        assert attempt.reported_model
        assert worth > 0
        assert cap(await client.status()) == (worth, 0)
        assert made.account("anthropic", "claude-3-haiku").requests_received == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_429_is_evidence_and_the_next_model_answers(tmp_path: Path, kind: str) -> None:
    scripts = {MINI: failing(FaultKind.DAY_LIMIT)}
    async with (
        world(tmp_path, STRATEGY, scripts) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        called, events, result = await routed(made, PARSE, kind)
        told = [e.failure_class for e in events if isinstance(e, escalade.Fallback)]
        again, _, _ = await routed(made, PARSE, kind)
        plan = await client.plan(PARSE)

        assert called == ["gpt-4o-mini", "deepseek-chat"]
        assert told == ["QUOTA_WINDOW"]
        assert [a.status for a in result.attempts] == ["FAILED", "OK"]
        assert result.attempts[0].http_status == 429
        assert again == ["deepseek-chat"]
        assert made.account("openai", "gpt-4o-mini").requests_received == 1
        assert [s.reason for s in plan.skips if s.model.model == "gpt-4o-mini"] == ["cooldown"]


async def test_providers_that_all_fail_are_an_error_with_its_cause(tmp_path: Path) -> None:
    models = (MINI, "deepseek/deepseek-chat", "anthropic/claude-3-haiku", "openai/gpt-4o")
    scripts: dict[str, ModelScript] = {name: failing(FaultKind.SERVER_ERROR) for name in models}
    only_free = escalade.Constraints(free_only=True, may_wait=False)
    tried = []
    async with (
        world(tmp_path, STRATEGY, scripts) as made,
        httpx.AsyncClient() as http,
        escalade.AsyncClient(made.target) as client,
    ):

        async def work() -> None:
            async with client.route(PARSE, constraints=only_free, timeout=20) as route:
                async for choice in route:
                    async with choice.attempt():
                        tried.append(choice.model)
                        (await http.send(asked(made, choice))).raise_for_status()

        with pytest.raises(escalade.StatusError) as caught:
            await work()
        assert cap(await client.status()) == (0, 0)

    assert tried == ["gpt-4o-mini", "deepseek-chat"]
    assert isinstance(caught.value.__cause__, httpx.HTTPStatusError)
    assert [a.status for a in caught.value.attempts] == ["FAILED", "FAILED"]


async def test_a_plan_reserves_nothing_and_calls_nobody(tmp_path: Path) -> None:
    async with (
        world(tmp_path, STRATEGY) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        plan = await client.plan(DEBUG, max_output_tokens=500)
        status = await client.status()

        assert plan.selected is not None
        assert plan.selected.model == "claude-3-haiku"
        assert plan.assessed is not None
        assert len(plan.candidates) == 4
        worst = {one.model.model: one.worst_case_nanos for one in plan.candidates}
        assert worst["claude-3-haiku"] == RESERVE_NANOS
        assert cap(status) == (0, 0)
        assert made.account("anthropic", "claude-3-haiku").requests_received == 0


async def test_a_choice_that_is_not_used_is_given_back(tmp_path: Path) -> None:
    async with (
        world(tmp_path, STRATEGY) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        async with client.route(DEBUG, max_output_tokens=500) as route:
            choice = await anext(route)
            assert choice.max_output_tokens == 500
            assert cap(await client.status()) == (0, RESERVE_NANOS)
        assert cap(await client.status()) == (0, 0)


async def test_a_caller_that_breaks_off_is_booked_at_the_reserve(tmp_path: Path) -> None:
    async with (
        world(tmp_path, STRATEGY) as made,
        escalade.AsyncClient(made.target) as client,
    ):

        async def work() -> None:
            async with client.route(DEBUG, max_output_tokens=500) as route:
                async for choice in route:
                    async with choice.attempt():
                        raise KeyError("mine")

        with pytest.raises(KeyError):
            await work()
        assert cap(await client.status()) == (RESERVE_NANOS, 0)


@asynccontextmanager
async def serving(folder: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Serve on this port, over the state in a folder, until it is killed."""
    file = folder / "strategy.yaml"
    file.write_text(STRATEGY)
    with (folder / "log.jsonl").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            COMMAND, "serve", "--strategy", file, "--listen", f"127.0.0.1:{port}",
            "--state", folder / "state.sqlite3", "--json",
            stdout=asyncio.subprocess.PIPE, stderr=log, env=os.environ | KEYS,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        assert line, (folder / "log.jsonl").read_text()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_an_answer_finds_its_way_to_a_server_that_was_killed_meanwhile(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with escalade.AsyncClient(f"127.0.0.1:{port}") as client:
        async with serving(tmp_path, port) as first:
            route = client.route(DEBUG, max_output_tokens=500)
            await route.__aenter__()
            choice = await anext(route)
            attempt = choice.attempt()
            await attempt.__aenter__()
            first.send_signal(signal.SIGKILL)
            await first.wait()
        async with serving(tmp_path, port):
            assert cap(await client.status()) == (RESERVE_NANOS, 0)
            attempt.ok(USED, finish_reason="stop")
            await attempt.__aexit__(None, None, None)
            with pytest.raises(StopAsyncIteration):
                await anext(route)
            await route.__aexit__(None, None, None)
            assert cap(await client.status()) == (COST_NANOS, 0)
            assert route.report is None
