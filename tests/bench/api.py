"""CPU µs of the API alone: the real servicers over a scripted engine, beside bare gRPC.

Run ``python -m tests.bench.api``. Server and client are two processes; only the server's CPU time
counts. "bare" writes ready-made messages with the same number of writes and statuses.
"""

import argparse
import asyncio
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from escalade.v1 import router_service_pb2_grpc
from escalade.v1.completion_pb2 import DELIVERY_STREAM, DELIVERY_WHOLE
from escalade.v1.router_service_pb2 import CompleteRequest, CompleteResponse
from escalade_server.api.convert_out import put_event
from escalade_server.api.server import ServerOptions, build_server, channel_options
from escalade_server.core.events import TextDelta
from escalade_server.core.facts import Fact, Outcome
from escalade_server.core.task import Delivery
from tests.api.world import ASSESSED, FakeEngine, FakeRun, ask, finished, selected

CHUNKS = 64
CALLS = {"whole": 3_000, "stream": 300}


def cpu_us() -> float:
    """CPU time of this process, user and system, in µs."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1e6


async def script(run: FakeRun) -> None:
    """Assessed, selected, chunks (each its own loop turn, as reads are), finished."""
    caller = run.caller
    caller.announce(ASSESSED)
    caller.announce(selected())
    if run.request.delivery is Delivery.STREAM:
        for _ in range(CHUNKS):
            caller.deliver(1, (TextDelta(" word and more"),))
            await caller.writable()
            await asyncio.sleep(PAUSE_S)
    caller.end(finished("a short answer", run.request.id))
    run.leave()


PAUSE_S = 0.002


def bare() -> Callable[[CompleteRequest, Any], Awaitable[None]]:
    """A handler fed by a task over a queue, that only writes: what gRPC and asyncio cost."""
    facts: tuple[Fact | Outcome, ...] = (ASSESSED, selected(), finished("a short answer"))
    whole = CompleteResponse()
    for number, fact in enumerate(facts, 1):
        put_event(whole.events.add(), number, fact, whole=True)
    delta = CompleteResponse()
    delta.events.add(sequence=1).delta.text = " word and more"

    async def produce(queue: asyncio.Queue[CompleteResponse], *, stream: bool) -> None:
        if stream:
            for _ in range(CHUNKS):
                queue.put_nowait(delta)
                await asyncio.sleep(PAUSE_S)
        queue.put_nowait(whole)

    async def complete(request: CompleteRequest, context: Any) -> None:
        queue: asyncio.Queue[CompleteResponse] = asyncio.Queue()
        stream = request.delivery == DELIVERY_STREAM
        task = asyncio.ensure_future(produce(queue, stream=stream))
        await context.send_initial_metadata((("escalade-request-id", "x"),))
        response = delta
        while response is delta:
            response = await queue.get()
            await context.write(response)
        await task

    return complete


async def serve(kind: str) -> None:
    """Serve until stdin ends; each line asks for the CPU time so far."""
    if kind == "api":
        engine = FakeEngine(script)
        api = build_server(engine, ServerOptions(port=0))
        port = await api.start()
    else:
        limits = ServerOptions()
        server = aio.server(
            options=channel_options(limits), maximum_concurrent_rpcs=limits.calls_max
        )
        handler = grpc.unary_stream_rpc_method_handler(
            bare(), CompleteRequest.FromString, CompleteResponse.SerializeToString
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "escalade.v1.RouterService", {"Complete": handler}
                ),
            )
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        if kind == "api":
            engine.runs.clear()
        print(cpu_us(), flush=True)
    os._exit(0)


async def measure(kind: str) -> dict[str, float]:
    """Start a server of one kind, and answer its CPU µs per call of each delivery."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.api", "--serve", kind,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    port = int(await process.stdout.readline())

    async def used() -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"?\n")
        return float(await process.stdout.readline())

    spent: dict[str, float] = {}
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = router_service_pb2_grpc.RouterServiceStub(channel)
        for delivery in ("whole", "stream"):
            wire = ask(delivery=DELIVERY_WHOLE if delivery == "whole" else DELIVERY_STREAM)

            async def some(count: int, wire: CompleteRequest = wire) -> None:
                for _ in range(count):
                    async for _response in stub.Complete(wire):
                        pass

            await asyncio.gather(*(some(10) for _ in range(8)))
            before = await used()
            await asyncio.gather(*(some(CALLS[delivery] // 8) for _ in range(8)))
            spent[delivery] = (await used() - before) / (CALLS[delivery] // 8 * 8)
    process.stdin.close()
    await process.wait()
    return spent


async def main() -> None:
    """Print the table."""
    rows = {kind: await measure(kind) for kind in ("bare", "api")}
    print("CPU µs of the server process      bare gRPC    API    of it ours")
    for name, key, per in (
        ("a WHOLE call", "whole", 1),
        (f"a {CHUNKS}-chunk stream", "stream", 1),
        ("a chunk of it", "stream", CHUNKS),
    ):
        low, high = rows["bare"][key] / per, rows["api"][key] / per
        print(f"{name:<30} {low:>12.1f} {high:>8.1f} {high - low:>10.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="CPU µs of the API alone.")
    parser.add_argument("--serve", choices=("api", "bare"), help="used by the benchmark itself")
    chosen = parser.parse_args().serve
    asyncio.run(serve(chosen) if chosen else main())
