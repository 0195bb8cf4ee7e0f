"""The metrics port of a real server: what it shows, when it is ready, and who cannot block it."""

import asyncio
import io
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

import escalade
from escalade_server.bootstrap import Options, StartError
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from escalade_server.telemetry import catalogue, endpoint
from tests.bootstrap.test_bootstrap import events, options, serving, simulated
from tests.stores.faulty_disk import FULL, FaultyDisk
from tests.telemetry.test_metrics import samples

OPEN = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    disk = FaultyDisk(everywhere=True)
    yield disk
    disk.unregister()


def measured(folder: Path, url: str) -> Options:
    return replace(options(folder, url), metrics="0")


def page(where: str, path: str = "/metrics") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{where}{path}", headers={"Accept": OPEN})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - http
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def get(where: str, path: str = "/metrics") -> tuple[int, str]:
    return await asyncio.to_thread(page, where, path)


async def value(where: str, name: str) -> float:
    return sum(sample.value for sample in samples((await get(where))[1]) if sample.name == name)


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(is_so):  # noqa: ASYNC110 - it is told over HTTP
            await asyncio.sleep(0.05)


async def is_serving(target: str) -> bool:
    async with aio.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_it_shows_every_metric_and_goes_with_the_server(tmp_path: Path) -> None:
    log = io.StringIO()
    async with simulated() as simulator:
        told = measured(tmp_path, simulator.provider_url("openai"))
        async with serving(told, log) as running, escalade.AsyncClient(running.target) as client:
            assert running.metrics.startswith("127.0.0.1:")
            await client.complete("Say something.")
            status, text = await get(running.metrics)
            assert status == 200
            for metric in catalogue.METRICS:
                assert f"# TYPE {metric.name} " in text, metric.name
            assert "process_cpu_seconds_total" in text
            assert await value(running.metrics, "escalade_requests_total") == 1
            assert await value(running.metrics, "escalade_ready") == 1
            assert await value(running.metrics, "escalade_settlement_backlog") == 0
            assert await value(running.metrics, "rpc_server_call_duration_seconds_count") == 1
            assert await value(running.metrics, "escalade_decision_duration_seconds_count") == 1
            assert await value(running.metrics, "escalade_store_duration_seconds_count") == 2
            for probe in ("/livez", "/readyz"):
                assert await get(running.metrics, probe) == (200, "ok\n")
    assert "metrics.served" in events(log)
    with pytest.raises(urllib.error.URLError):
        page(running.metrics)


async def test_without_the_option_nothing_listens(tmp_path: Path) -> None:
    async with (
        simulated() as simulator,
        serving(options(tmp_path, simulator.provider_url("openai"))) as running,
    ):
        assert running.metrics == ""


async def test_an_address_that_cannot_be_had_is_said_at_the_start(tmp_path: Path) -> None:
    async with simulated() as simulator:
        told = measured(tmp_path, simulator.provider_url("openai"))
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(StartError, match=f"127.0.0.1:{port}"):
                async with serving(replace(told, metrics=f"127.0.0.1:{port}")):
                    pass
        with pytest.raises(StartError, match="write HOST:PORT, such as 9464"):
            async with serving(replace(told, metrics="somewhere")):
                pass


async def reasons(client: escalade.AsyncClient) -> set[str]:
    """Why models take no task, as the status has it; empty for those that do."""
    return {model.reason for layer in (await client.status()).layers for model in layer.models}


@pytest.mark.fault("K5")
async def test_k5_a_ledger_that_cannot_be_written_takes_readiness_until_it_can(
    tmp_path: Path, disk: FaultyDisk
) -> None:
    log = io.StringIO()
    async with simulated() as simulator:
        told = measured(tmp_path, simulator.provider_url("openai"))
        async with serving(told, log) as running, escalade.AsyncClient(running.target) as client:
            where = running.metrics
            await client.complete("Say something.")
            disk.fail(FULL, "")
            with pytest.raises(escalade.EscaladeError):
                await client.complete("Say something.")
            await until(lambda: page(where, "/readyz") == (503, "ledger\n"))
            assert not await is_serving(running.target)
            assert page(where, "/livez") == (200, "ok\n"), "alive: to restart it would mend nothing"
            assert await value(where, "escalade_ledger_failing") == 1
            assert await value(where, "escalade_ledger_errors_total") == 1
            assert await value(where, "escalade_ready") == 0
            assert await reasons(client) == {"ledger_unavailable"}
            disk.mend()  # nobody calls a server that is not ready: it finds out by itself
            await until(lambda: page(where, "/readyz") == (200, "ok\n"))
            assert await is_serving(running.target)
            assert await value(where, "escalade_ledger_failing") == 0
            assert await reasons(client) == {""}
            assert (await client.complete("Say something.")).text
    said = [event for event in events(log) if event.startswith(("ledger.", "server.", "metrics."))]
    assert said[-6:] == [
        "ledger.failing", "server.not_ready", "ledger.mended", "server.ready",
        "server.draining", "server.stopped",
    ]  # fmt: skip


@pytest.mark.fault("K5")
async def test_k5_providers_that_are_out_take_nothing(tmp_path: Path) -> None:
    async with simulated() as simulator:
        told = measured(tmp_path, simulator.provider_url("openai"))
        await simulator.stop()
        async with serving(told) as running, escalade.AsyncClient(running.target) as client:
            with pytest.raises(escalade.EscaladeError):
                await client.complete("Say something.", timeout=10)
            assert await get(running.metrics, "/readyz") == (200, "ok\n")
            assert await is_serving(running.target)


async def test_a_server_that_shuts_down_is_not_ready_while_calls_end(tmp_path: Path) -> None:
    async with (
        simulated() as simulator,
        serving(measured(tmp_path, simulator.provider_url("openai"))) as running,
    ):
        channel = aio.insecure_channel(running.target)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await running.stop()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE
        await channel.close()


async def test_while_calls_end_its_metrics_are_there_and_it_is_not_ready(tmp_path: Path) -> None:
    """What is done after SIGTERM is scraped too, and no probe takes the drain for a death."""
    stalls = ModelScript(faults=(Fault(kind=FaultKind.STALL, after_chunks=1),))
    async with simulated() as simulator:
        simulator.script("openai", "gpt-4o-mini", stalls)
        told = replace(measured(tmp_path, simulator.provider_url("openai")), grace_s=60.0)
        async with serving(told) as running, escalade.AsyncClient(running.target) as client:
            async with client.stream("Say something.", task="parse") as stream:
                await anext(aiter(stream.text))
                stopping = asyncio.ensure_future(running.stop())
                await until(lambda: page(running.metrics, "/readyz") == (503, "draining\n"))
                assert await get(running.metrics, "/livez") == (200, "ok\n")
                assert await value(running.metrics, "escalade_ready") == 0
                assert await value(running.metrics, "escalade_calls_in_flight") == 1
            await stopping  # the caller has left
    with pytest.raises(urllib.error.URLError):
        page(running.metrics)


async def test_slow_readers_block_nobody_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "LONGEST_S", 1.0)
    async with (
        simulated() as simulator,
        serving(measured(tmp_path, simulator.provider_url("openai"))) as running,
    ):
        host, _, port = running.metrics.rpartition(":")
        with ExitStack() as stack:
            for _ in range(endpoint.CONNECTIONS_MAX + 4):
                slow = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
                slow.sendall(b"GET /metrics HTTP/1.1\r\n")  # and never the rest

            def is_read() -> bool:
                try:
                    return page(running.metrics)[0] == 200
                except (OSError, urllib.error.URLError):
                    return False

            await until(is_read)
