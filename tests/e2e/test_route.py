"""``Route`` over real processes: a server that is killed in between loses no money (R32, C6)."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from grpc import aio

from escalade.v1 import operations_service_pb2 as o
from escalade.v1 import operations_service_pb2_grpc as operations
from escalade.v1 import router_service_pb2_grpc as services
from escalade.v1.router_service_pb2 import (
    ReportOutcomeRequest,
    ReportOutcomeResponse,
    RouteRequest,
    RouteResponse,
)
from tests.api.route_world import COST_NANOS, KEYS, RESERVE_NANOS, STRATEGY, ok, paid
from tests.e2e.world import COMMAND, START_S


class Server:
    """One process of the server, and a channel to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, target: str, channel: aio.Channel
    ) -> None:
        self.process, self.target = process, target
        self.router: services.RouterServiceAsyncStub = services.RouterServiceStub(channel)
        self.operations: operations.OperationsServiceAsyncStub = operations.OperationsServiceStub(
            channel
        )

    async def books(self) -> tuple[int, int]:
        status = await self.operations.GetStatus(o.GetStatusRequest())
        (quota,) = status.layers[1].quotas
        return quota.spent, quota.held

    async def report(self, reservation_id: str) -> ReportOutcomeResponse:
        return await self.router.ReportOutcome(
            ReportOutcomeRequest(reservation_id=reservation_id, outcome=ok())
        )


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Server]:
    """Serve over the state in a folder until the process is killed."""
    file = folder / "strategy.yaml"
    file.write_text(STRATEGY)
    with (folder / "log.jsonl").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            COMMAND, "serve", "--strategy", file, "--listen", "127.0.0.1:0",
            "--state", folder / "state.sqlite3", "--json",
            stdout=asyncio.subprocess.PIPE, stderr=log, env=os.environ | KEYS,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        assert line, (folder / "log.jsonl").read_text()
        target = json.loads(line)["target"]
        async with aio.insecure_channel(target) as channel:
            yield Server(process, target, channel)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def reservation_of(call: "aio.StreamStreamCall[RouteRequest, RouteResponse]") -> str:
    """Read until a model is selected; answer its reservation."""
    while True:
        response = await call.read()
        assert isinstance(response, RouteResponse), await call.details()
        for event in response.events:
            if event.HasField("selected"):
                return event.selected.reservation_id


async def test_a_server_killed_in_between_books_the_reserve_and_takes_the_report(
    tmp_path: Path,
) -> None:
    async with started(tmp_path) as first:
        call = first.router.Route()
        await call.write(paid())
        reservation_id = await reservation_of(call)
        assert await first.books() == (0, RESERVE_NANOS)
        first.process.send_signal(signal.SIGKILL)
        await first.process.wait()
    async with started(tmp_path) as second:
        assert await second.books() == (RESERVE_NANOS, 0)
        told = [await second.report(reservation_id) for _ in range(2)]
        assert [each.corrected for each in told] == [True, False]
        assert await second.books() == (COST_NANOS, 0)


CALLER = """
import asyncio, sys
from grpc import aio
from escalade.v1.router_service_pb2_grpc import RouterServiceStub
from tests.api.route_world import paid

async def main():
    async with aio.insecure_channel(sys.argv[1]) as channel:
        call = RouterServiceStub(channel).Route()
        await call.write(paid())
        while not (await call.read()).events[-1].HasField("selected"):
            pass
        print("selected", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_caller_that_is_killed_is_booked_at_the_reserve(tmp_path: Path) -> None:
    """Its connection breaks without a word, and its stream seems to be half-closed first (P1)."""
    async with started(tmp_path) as server:
        caller = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CALLER, server.target,
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        try:
            assert caller.stdout is not None
            assert await asyncio.wait_for(caller.stdout.readline(), START_S) == b"selected\n"
            assert await server.books() == (0, RESERVE_NANOS)
        finally:
            caller.kill()
            await caller.wait()
        books = [await server.books()]
        for _ in range(250):
            if books[-1] != (0, RESERVE_NANOS):
                break
            await asyncio.sleep(0.02)
            books.append(await server.books())
        assert books[-1] == (RESERVE_NANOS, 0)
