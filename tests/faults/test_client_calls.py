"""Faults C1-C5 and C11: deadlines, callers who leave, and readers who do not read."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio

from escalade.v1 import escalation_pb2 as e
from escalade.v1 import router_service_pb2_grpc
from escalade_server.api.server import ServerOptions, channel_options
from escalade_server.core.commands import Reserve
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from tests.api.world import ask
from tests.faults.http2 import WINDOW_UPDATE, frame, http2, message
from tests.faults.machine import grown_mb, until
from tests.faults.road import road
from tests.faults.served import KEY, LOCAL, PRICE, Served, door, served
from tests.providers.raw_server import CHUNKED, Peer, serve

K = FaultKind
SOON_S = 5.0
"""Within which a provider must see that its caller has gone; 100 ms on a quiet machine (C3)."""
STRATEGY = f"""\
fallback_strategy:
  layers:
    - name: paid
      priority: 1
      monthly_cap: $5
      models:
        - {{provider: <vendor>, model: mini, price: {{input: 1, output: 2}}}}
providers:
  <vendor>: {{base_url: <<vendor>>, api_key_env: {KEY}}}
timeouts: {{work: 700ms}}
"""


def strategy(vendor: str = "openai", work: str = "60s") -> str:
    return STRATEGY.replace("<vendor>", vendor).replace("700ms", work)


def ready(script: ModelScript, vendor: str = "openai") -> dict[str, dict[str, ModelScript]]:
    return {vendor: {"mini": script}}


SILENT = ModelScript(price=PRICE, faults=(Fault(kind=K.SILENCE),))
SLOW = ModelScript(price=PRICE, text="word " * 400, chunks=400, chunk_interval_ms=25)


# --------------------------------------------------------------------------- C1, C11: two budgets


@pytest.mark.fault("C1")
@pytest.mark.parametrize("by_caller", [False, True], ids=["the strategy's", "the caller's"])
async def test_without_a_deadline_the_budget_of_work_ends_a_task(
    tmp_path: Path,
    by_caller: bool,  # noqa: FBT001 - a table's column
) -> None:
    limits = e.Constraints()
    if by_caller:
        limits.timeout.FromMilliseconds(700)
    async with served(tmp_path, strategy(work="60s" if by_caller else "700ms"), ready(SILENT)) as w:
        begun_ms = w.now_ms
        told = await asyncio.wait_for(w.ask(constraints=limits), 30)
        took_ms = w.now_ms - begun_ms
        await until(lambda: w.running.engine.running == 0)
        held, booked = w.held(), w.booked_nanos()
        calls = w.calls()
    assert (told.code, told.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_REACHED")
    assert told.kinds[-1] == "failed"
    assert took_ms >= 650
    assert calls == {"mini": 1}
    assert held + booked > 0, "a call without an answer may have been billed: its hold stays"


@pytest.mark.fault("C1", "C11")
async def test_two_thousand_tasks_that_may_not_wait_are_refused_at_once_and_leave_nothing(
    tmp_path: Path,
) -> None:
    """Each is told when; what those leave who wait is in ``test_waits``."""
    closed = ModelScript(price=PRICE, faults=(Fault(kind=K.DAY_LIMIT),))
    async with served(tmp_path, strategy(work="600s"), ready(closed)) as w:
        first = await w.ask()
        engine = w.running.engine
        await until(lambda: bool(engine.standing().benches))
        until_ms = (await w.model("mini")).until.ToMilliseconds()
        async with grown_mb() as grown:
            for _ in range(10):
                told = await asyncio.gather(*(w.ask() for _ in range(200)))
                assert {each.code for each in told} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
                assert {each.reason for each in told} == {"RATE_LIMITED"}
                for each in told:
                    delay = each.detail(error_details_pb2.RetryInfo).retry_delay
                    at_ms = w.now_ms + delay.ToMilliseconds()
                    assert at_ms == pytest.approx(until_ms, abs=60_000)
                    assert int(each.trailers["grpc-retry-pushback-ms"]) > 0
        running, calls, held = engine.running, w.calls(), w.held()
    assert first.reason == "RATE_LIMITED"
    assert (running, calls, held) == (0, {"mini": 1}, 0)
    assert grown.most < 60


# ------------------------------------------------------------------------- C2: no time left


@pytest.mark.fault("C2")
@pytest.mark.parametrize("timeout", [b"1n", b"1u", b"1m", b"40m"])
async def test_a_deadline_that_has_passed_is_refused_before_anything_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout: bytes
) -> None:
    reserved: list[object] = []
    async with served(tmp_path, strategy(), ready(ModelScript(price=PRICE))) as w:
        store = w.running.engine.store
        reserve = store.reserve

        def noted(order: Reserve, now_ms: int) -> "Awaitable[object]":
            reserved.append(order)
            return reserve(order, now_ms)

        monkeypatch.setattr(store, "reserve", noted)
        port = int(w.running.target.rpartition(":")[2])
        async with http2(port) as peer:
            body = message(ask().SerializeToString())
            for _ in range(20):
                await peer.call(body, grpc_timeout=timeout)
            await asyncio.sleep(0.3)
        assert reserved == []
        alive = await w.ask()
        calls = w.calls()
    assert alive.code is grpc.StatusCode.OK
    assert (len(reserved), calls) == (1, {"mini": 1})


# ------------------------------------------------------------------- C3, C4: the caller goes


Leave = Callable[[Any, aio.Channel], Awaitable[None]]


async def cancels(call: Any, _channel: aio.Channel) -> None:
    call.cancel()


async def closes(_call: Any, channel: aio.Channel) -> None:
    await channel.close()


async def gone(w: Served, vendor: str = "openai") -> float:
    """Seconds until the provider itself sees that its client has left."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await until(lambda: w.account(vendor, "mini").disconnects == 1)
    return loop.time() - begun


@pytest.mark.fault("C3", "C4")
@pytest.mark.parametrize("leave", [cancels, closes])
@pytest.mark.parametrize("script", [SILENT, SLOW], ids=["before the first token", "mid-stream"])
async def test_a_caller_who_leaves_takes_the_provider_along_and_is_settled(
    tmp_path: Path, leave: Leave, script: ModelScript
) -> None:
    silent = script is SILENT
    held_up = ModelScript(price=PRICE, first_token_ms=60_000) if silent else script
    async with served(tmp_path, strategy(), ready(held_up)) as w:
        channel = aio.insecure_channel(w.running.target, options=LOCAL)
        call = router_service_pb2_grpc.RouterServiceStub(channel).Complete(ask())
        if silent:
            await until(lambda: w.account("openai", "mini").streams_open == 1)
        else:
            async for response in call:
                if any(event.HasField("delta") for event in response.events):
                    break
        await leave(call, channel)
        took_s = await gone(w)
        await until(lambda: w.running.engine.running == 0)
        account = w.account("openai", "mini")
        held, booked = w.held(), w.booked_nanos()
        await channel.close()
    assert took_s < SOON_S
    assert account.requests_received == 1
    assert account.streams_open == 0
    assert booked + held >= account.cost_nanos > 0
    assert (held > 0) is silent, "what may be billed unseen stays held, what was seen is booked"


@pytest.mark.fault("C3")
async def test_where_leaving_saves_nothing_the_answer_is_read_to_its_end(tmp_path: Path) -> None:
    """R25: a vendor that bills to the end is drained, and booked as it reports."""
    script = ModelScript(
        price=PRICE, text="word " * 40, chunks=40, chunk_interval_ms=10, bills_after_disconnect=True
    )
    async with served(tmp_path, strategy("google"), ready(script, "google")) as w:
        call = w.router.Complete(ask())
        async for response in call:
            if any(event.HasField("delta") for event in response.events):
                break
        call.cancel()
        await until(lambda: w.running.engine.running == 0)
        account = w.account("google", "mini")
        held, booked = w.held(), w.booked_nanos()
    assert (account.disconnects, account.requests_finished) == (0, 1)
    assert (held, booked) == (0, account.cost_nanos)


KEEPALIVE = ServerOptions(port=0, keepalive_s=0.4, keepalive_timeout_s=0.4)


@pytest.mark.fault("C4")
async def test_a_caller_who_vanishes_without_a_word_is_found_out_by_keepalive(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        w = await stack.enter_async_context(served(tmp_path, strategy(), ready(SLOW)))
        _, port = await stack.enter_async_context(door(w.running, KEEPALIVE))
        way = await stack.enter_async_context(road(port))
        target = f"127.0.0.1:{way.port}"
        channel = await stack.enter_async_context(aio.insecure_channel(target, options=LOCAL))
        call = router_service_pb2_grpc.RouterServiceStub(channel).Complete(ask())
        async for response in call:
            if any(event.HasField("delta") for event in response.events):
                break
        way.gone.set()
        took_s = await gone(w)
        await until(lambda: w.running.engine.running == 0)
        await asyncio.wait_for(way.left.wait(), 30)
        account = w.account("openai", "mini")
        held, booked = w.held(), w.booked_nanos()
        call.cancel()
    # Twice the interval, and as much again for a machine under load; the answer takes 10 s.
    assert took_s < 4 * KEEPALIVE.keepalive_s + SOON_S
    assert account.requests_finished == 0
    assert booked + held >= account.cost_nanos > 0


@pytest.mark.fault("C4")
def test_keepalive_is_what_the_documents_say() -> None:
    made = dict(channel_options(ServerOptions()))
    assert made["grpc.keepalive_time_ms"] == 30_000
    assert made["grpc.keepalive_timeout_ms"] == made["grpc.http2.ping_timeout_ms"] == 10_000
    assert made["grpc.keepalive_permit_without_calls"] == 1


# -------------------------------------------------------------------- C5: the reader does not read

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"word " * 3_000)
EVENTS_MAX = 8_000
"""120 MB, of which the buffers of sockets may take a tenth."""


@pytest.mark.fault("C5")
async def test_a_reader_that_never_reads_holds_up_the_provider_and_is_cut(tmp_path: Path) -> None:
    sent, cut = [0], asyncio.Event()

    async def flood(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        try:
            for _ in range(EVENTS_MAX):
                await peer.chunk(EVENT)
                sent[0] += 1
        except ConnectionError:
            cut.set()

    options = ServerOptions(port=0, write_stall_s=1.2)
    request = ask(max_output_tokens=1_000_000).SerializeToString()
    async with AsyncExitStack() as stack:
        raw = await stack.enter_async_context(serve(flood))
        text = strategy().replace("<openai>", f"http://127.0.0.1:{raw.port}/v1")
        w = await stack.enter_async_context(served(tmp_path, text, ready(ModelScript())))
        api, port = await stack.enter_async_context(door(w.running, options))
        grown = await stack.enter_async_context(grown_mb())
        # A window of 1,000 bytes, and never a word more.
        peer = await stack.enter_async_context(http2(port, initial_window=1_000))
        stream = await peer.call(message(request))
        await asyncio.wait_for(cut.wait(), 30)
        await until(lambda: len(api.calls) == 0 and w.running.engine.running == 0)
        held, booked, unread = w.held(), w.booked_nanos(), peer.data_bytes
        # Whoever begins to read after all hears that it is over.
        for each in (0, stream):
            await peer.send(frame(WINDOW_UPDATE, 0, each, (1 << 24).to_bytes(4)))
        await peer.until(lambda: stream in peer.over)
        assert stream in peer.over
    assert unread <= 1_000
    assert 0 < sent[0] < EVENTS_MAX // 2, "backpressure reached the provider"
    assert grown.most < 100
    assert (raw.connections, held) == (1, 0)
    assert booked > 0, "what was read is paid"


@pytest.mark.fault("C5")
async def test_a_reader_that_reads_slowly_gets_all_of_it(tmp_path: Path) -> None:
    options = ServerOptions(port=0, write_stall_s=5.0)
    text = "word " * 20_000
    script = ModelScript(price=PRICE, text=text, chunks=50, chunk_interval_ms=1)
    async with (
        served(tmp_path, strategy(), ready(script)) as w,
        door(w.running, options) as (_, port),
    ):
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=LOCAL) as channel:
            request = ask(max_output_tokens=1_000_000)
            call = router_service_pb2_grpc.RouterServiceStub(channel).Complete(request)
            got: list[str] = []
            async for response in call:
                got += [ev.delta.text for ev in response.events if ev.HasField("delta")]
                await asyncio.sleep(0.05)
            code = await call.code()
        calls = w.calls()
    assert code is grpc.StatusCode.OK
    assert "".join(got) == text
    assert calls == {"mini": 1}
