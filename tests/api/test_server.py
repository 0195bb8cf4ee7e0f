"""The server: where it listens, limits, health, reflection, drain and stop."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from escalade_server.api.server import (
    HEALTH_NAMES,
    BindError,
    ServerOptions,
    build_server,
    channel_options,
    is_loopback,
)
from escalade_server.core.events import TextDelta
from escalade_server.engine.engine import Engine
from tests.api.world import (
    FakeEngine,
    FakeRun,
    World,
    answer_hello,
    ask,
    finished,
    listen,
    world,
)

KINDS = health_pb2.HealthCheckResponse


def engine_fits(engine: Engine) -> None:
    """The real engine has the face that the API asks for; mypy holds it."""
    build_server(engine, ServerOptions())


async def check(w: World, name: str) -> int:
    stub = health_pb2_grpc.HealthStub(w.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
    return int(response.status)


# ------------------------------------------------------------------------------- listening


@pytest.mark.fault("X9")
async def test_a_taken_port_is_a_clear_error() -> None:
    """P11: by default a second server would silently take half the traffic."""
    async with world() as w:
        second = build_server(FakeEngine(), ServerOptions(port=w.port))
        with pytest.raises(BindError, match=f"cannot listen on 127.0.0.1:{w.port}"):
            await second.start()
        await second.stop(0)


async def test_it_does_not_listen_beyond_loopback_unless_allowed() -> None:
    server = build_server(FakeEngine(), ServerOptions(host="0.0.0.0", port=0))
    with pytest.raises(BindError, match="not authenticated"):
        await server.start()
    await server.stop(0)


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True),
        ("unix:/tmp/x.sock", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False),
        ("example.org", False), ("", False), ("127.0.0.1.example.org", False),
    ],
)  # fmt: skip
def test_what_counts_as_loopback(host: str, inside: bool) -> None:  # noqa: FBT001 - a table's column
    assert is_loopback(host) is inside


def test_every_limit_is_set() -> None:
    made = dict(channel_options(ServerOptions(connection_age_max_s=60, reuse_port=True)))

    assert dict(channel_options(ServerOptions()))["grpc.so_reuseport"] == 0
    assert made["grpc.so_reuseport"] == 1
    assert made["grpc.max_receive_message_length"] == 16_777_216
    assert made["grpc.max_concurrent_streams"] == 1_000
    assert made["grpc.max_metadata_size"] == 8_192
    assert made["grpc.absolute_max_metadata_size"] == 16_384
    assert made["grpc.max_connection_age_ms"] == 60_000
    assert "grpc.max_connection_age_ms" not in dict(channel_options(ServerOptions()))


# ---------------------------------------------------------------------------------- limits


async def test_a_message_over_16_mib_is_refused_and_one_below_is_not() -> None:
    async with world(answer_hello, channel_options=(("grpc.max_send_message_length", -1),)) as w:
        big = await listen(w.router.Complete(ask("x" * 17 * 1_048_576)))
        fits = await listen(w.router.Complete(ask("x" * 15 * 1_048_576)))

    assert big.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert big.status is None  # P10: the transport's own refusal has no details
    assert fits.code is grpc.StatusCode.OK
    assert len(w.engine.runs) == 1


async def test_a_bomb_is_refused_by_its_inflated_size() -> None:
    options = (("grpc.max_send_message_length", -1),)
    async with world(channel_options=options, compression=grpc.Compression.Gzip) as w:
        told = await listen(w.router.Complete(ask("\x00" * 100 * 1_048_576)))

    assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert w.engine.runs == []


async def test_compressed_requests_are_accepted() -> None:
    async with world(answer_hello, compression=grpc.Compression.Gzip) as w:
        told = await listen(w.router.Complete(ask("x" * 10_000)))

    assert told.code is grpc.StatusCode.OK


async def test_large_metadata_is_refused() -> None:
    async with world(answer_hello) as w:
        told = await listen(w.router.Complete(ask(), metadata=(("x-big", "x" * 20_000),)))

    assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert w.engine.runs == []


async def test_requests_in_flight_share_a_byte_budget() -> None:
    """P10: refused with our own reason, without a message, so that a channel may retry."""
    options = ServerOptions(port=0, calls_bytes_max=3_000)
    async with world(options=options) as w:
        first = w.router.Complete(ask("x" * 2_000))
        await first.initial_metadata()
        second = await listen(w.router.Complete(ask("x" * 2_000)))
        small = w.router.Complete(ask("x"))
        await small.initial_metadata()
        first.cancel()
        small.cancel()
        await asyncio.wait_for(w.api.calls.idle(), 20)
        third = w.router.Complete(ask("x" * 2_000))
        await asyncio.wait_for(third.initial_metadata(), 20)
        third.cancel()

    assert second.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert second.reason == "SERVER_BUSY"
    assert second.detail(error_details_pb2.RetryInfo).retry_delay.seconds == 1
    assert second.trailers["grpc-retry-pushback-ms"] == "1000"
    assert second.responses == []
    assert len(w.engine.runs) == 3


async def test_one_large_request_alone_is_taken_even_if_over_the_budget() -> None:
    async with world(answer_hello, options=ServerOptions(port=0, calls_bytes_max=10)) as w:
        told = await listen(w.router.Complete(ask("x" * 2_000)))

    assert told.code is grpc.StatusCode.OK


async def test_calls_in_flight_are_limited() -> None:
    async with world(options=ServerOptions(port=0, calls_max=1)) as w:
        first = w.router.Complete(ask())
        await first.initial_metadata()
        second = await listen(w.router.Complete(ask()))
        first.cancel()

    assert second.reason == "SERVER_BUSY"


# -------------------------------------------------------------------- health and reflection


async def test_health_serves_every_name_and_follows_the_switch() -> None:
    async with world() as w:
        serving = [await check(w, name) for name in HEALTH_NAMES]
        stub = health_pb2_grpc.HealthStub(w.channel)
        listed = (await stub.List(health_pb2.HealthListRequest(), timeout=20)).statuses
        await w.api.set_serving(serving=False)
        not_serving = [await check(w, name) for name in HEALTH_NAMES]
        with pytest.raises(aio.AioRpcError) as caught:
            await check(w, "unknown")

    assert serving == [KINDS.SERVING] * 3
    assert {name: one.status for name, one in listed.items()} == dict.fromkeys(
        HEALTH_NAMES, KINDS.SERVING
    )
    assert not_serving == [KINDS.NOT_SERVING] * 3
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("on", [False, True])
async def test_reflection_is_off_unless_asked(on: bool) -> None:  # noqa: FBT001 - a table's column
    async with world(options=ServerOptions(port=0, reflection=on)) as w:
        stub = reflection_pb2_grpc.ServerReflectionStub(w.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]))
        try:
            names = {s.name for s in (await call.read()).list_services_response.service}
            code = grpc.StatusCode.OK
        except aio.AioRpcError as error:
            names, code = set(), error.code()

    assert code is (grpc.StatusCode.OK if on else grpc.StatusCode.UNIMPLEMENTED)
    assert ("escalade.v1.RouterService" in names) is on


# ------------------------------------------------------------------------------ drain, stop


async def test_draining_refuses_new_calls_and_lets_running_ones_end() -> None:
    go = asyncio.Event()

    async def long(run: FakeRun) -> None:
        run.caller.deliver(1, (TextDelta("a"),))
        await go.wait()
        run.caller.end(finished())

    async with world(long) as w:
        running = asyncio.ensure_future(listen(w.router.Complete(ask())))
        await w.engine.started.wait()
        await w.api.drain()
        await w.api.drain()
        refused = await listen(w.router.Complete(ask()))
        healthy = await check(w, "")
        await w.api.set_serving(serving=True)
        still = await check(w, "")
        go.set()
        ended = await running

    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.reason == "DRAINING"
    assert refused.responses == []
    assert refused.trailers["grpc-retry-pushback-ms"] == "100"
    assert (healthy, still) == (KINDS.NOT_SERVING, KINDS.NOT_SERVING)
    assert ended.code is grpc.StatusCode.OK


async def test_stop_waits_for_running_calls_and_not_for_health_watchers() -> None:
    go = asyncio.Event()

    async def short(run: FakeRun) -> None:
        await go.wait()
        run.caller.end(finished())

    async with world(short) as w:
        watch = health_pb2_grpc.HealthStub(w.channel).Watch(health_pb2.HealthCheckRequest())
        first = await watch.read()
        running = asyncio.ensure_future(listen(w.router.Complete(ask())))
        await w.engine.started.wait()
        stopping = asyncio.ensure_future(w.api.stop(60))
        done, _ = await asyncio.wait({stopping}, timeout=0.3)
        go.set()
        await asyncio.wait_for(stopping, 30)
        ended = await running

    assert first.status == KINDS.SERVING
    assert not done, "it waits for the call"
    assert ended.code is grpc.StatusCode.OK


async def test_a_health_watcher_is_told_before_it_is_let_go() -> None:
    async with world() as w:
        watch = health_pb2_grpc.HealthStub(w.channel).Watch(health_pb2.HealthCheckRequest())
        first = await watch.read()
        await w.api.drain()
        second = await watch.read()
        await asyncio.wait_for(w.api.stop(30), 20)

    assert (first.status, second.status) == (KINDS.SERVING, KINDS.NOT_SERVING)


async def test_after_its_grace_stop_cuts_calls_and_their_runs_are_told() -> None:
    async with world() as w:
        running = asyncio.ensure_future(listen(w.router.Complete(ask())))
        await w.engine.started.wait()
        await asyncio.wait_for(w.api.stop(0.2), 20)
        ended = await running
        await asyncio.wait_for(w.engine.runs[0].left.wait(), 20)

    assert ended.code is grpc.StatusCode.UNAVAILABLE
    assert w.engine.runs[0].left_count == 1


async def test_stop_is_safe_twice_and_frees_the_port() -> None:
    async with world() as w:
        await asyncio.gather(w.api.stop(0), w.api.stop(0))
        await w.api.stop(0)
        again = build_server(FakeEngine(), ServerOptions(port=w.port))
        port = await again.start()
        await again.stop(0)

    assert port == w.port
