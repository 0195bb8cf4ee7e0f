"""The processes that are measured, and the load on them; only the load's own CPU is not counted."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from grpc import aio

from escalade.v1.completion_pb2 import DELIVERY_STREAM, DELIVERY_WHOLE, ROLE_USER, Message, Part
from escalade.v1.escalation_pb2 import Event, Task
from escalade.v1.router_service_pb2 import CompleteRequest, CompleteResponse
from tests.bench.machine import cpu_us
from tests.bench.mock_provider import Script
from tests.bench.stages import KEY, KEY_NAME, Work, encode, strategy

CONNECTIONS = 16
_METHOD = "/escalade.v1.RouterService/Complete"
_START_S = 30.0
_STOP_S = 15.0


class Subject:
    """One process under measurement."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.pid = process.pid
        self.messages = 0
        """Messages that the last work's calls were answered with."""
        self._process = process

    async def work(self, work: Work) -> int:
        """Do it; answer how many calls were made."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(encode(work))
        done: int = json.loads(await stdout.readline())["done"]
        return done

    async def cost_us(self, work: Work) -> float:
        """CPU time of the process per call, in µs."""
        before = cpu_us(self.pid)
        calls = await self.work(work)
        return (cpu_us(self.pid) - before) / calls


class Server(Subject):
    """A gRPC server, called with raw stubs over several connections."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, target: str) -> None:
        super().__init__(name, process)
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channels = [aio.insecure_channel(target, options) for _ in range(CONNECTIONS)]
        # The stubs of grpcio have no type for a call of raw bytes.
        self._calls: list[Any] = [channel.unary_stream(_METHOD) for channel in self._channels]

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close()

    async def work(self, work: Work) -> int:
        """Do it, and check every answer."""
        self.messages = 0
        wire = self._wire(work)
        if work.interval_ms:
            begun, tasks = time.monotonic(), []
            for number in range(work.calls):
                due = begun + number * work.interval_ms / 1_000
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                tasks.append(asyncio.create_task(self._some(number, 1, wire, work)))
            await asyncio.gather(*tasks)
            return work.calls
        each = work.calls // work.callers
        await asyncio.gather(*(self._some(n, each, wire, work) for n in range(work.callers)))
        return each * work.callers

    async def first_delta_ms(self, script: Script) -> float:
        """Time from the call to its first delta."""
        wire = self._wire(Work(script, 1, 1, streamed=True))
        begun, first = time.perf_counter(), 0.0
        async for data in self._calls[0](wire):
            if not first and any(e.HasField("delta") for e in _events(data)):
                first = time.perf_counter()
        return (first - begun) * 1e3

    def _wire(self, work: Work) -> bytes:
        message = Message(role=ROLE_USER, parts=[Part(text=work.script.prompt())])
        request = CompleteRequest(
            task=Task(type="parse", file_count=0, tokens=0),
            messages=[message],
            delivery=DELIVERY_STREAM if work.streamed else DELIVERY_WHOLE,
        )
        return request.SerializeToString()

    async def _some(self, caller: int, count: int, wire: bytes, work: Work) -> None:
        call = self._calls[caller % CONNECTIONS]
        for _ in range(count):
            answers: list[bytes] = [data async for data in call(wire)]
            self.messages += len(answers)
            events = [event for data in answers for event in _events(data)]
            text = "".join(event.delta.text for event in events)
            if not work.streamed:
                text = events[-1].finished.answer.parts[0].text
            assert events[-1].HasField("finished"), f"{self.name}: {events[-1]}"
            assert text == work.script.text, f"{self.name}: {text!r}"


def _events(data: bytes) -> Sequence[Event]:
    return CompleteResponse.FromString(data).events


@asynccontextmanager
async def _process(
    *words: str | Path, stderr: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *words, env=os.environ | {KEY_NAME: KEY}, stderr=stderr,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ready(process: asyncio.subprocess.Process) -> dict[str, object]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), _START_S)
    assert line, "a process of the benchmark did not start; its message stands above"
    told: dict[str, object] = json.loads(line)
    return told


@asynccontextmanager
async def mock() -> AsyncIterator[tuple[Subject, str]]:
    """Run the provider; answer its process and its base URL."""
    async with _process(sys.executable, "-m", "tests.bench.mock_provider") as process:
        port = (await _ready(process))["port"]
        yield Subject("mock", process), f"http://127.0.0.1:{port}/v1"


@asynccontextmanager
async def subjects(
    kinds: Sequence[str], base_url: str, folder: Path
) -> AsyncIterator[dict[str, Subject]]:
    """Run all that is measured: the stages, the direct caller, and the real server.

    All are started before the first connection is made: gRPC and forking do not go together.
    """
    file, command = folder / "bench.yaml", Path(sys.executable).with_name("escalade")
    file.write_text(strategy(base_url))
    async with AsyncExitStack() as stack:
        started = {}
        for kind in (*kinds, "direct"):
            words: tuple[str | Path, ...] = (
                sys.executable,
                "-m",
                "tests.bench.stages",
                kind,
                base_url,
                folder,
            )
            started[kind] = await stack.enter_async_context(_process(*words))
        log = stack.enter_context((folder / "log.jsonl").open("wb"))
        words = (command, "serve", "--strategy", file, "--listen", "127.0.0.1:0", "--grace", "1s",
                 "--state", folder / "served.sqlite3", "--log", "json", "--json")  # fmt: skip
        started["escalade"] = await stack.enter_async_context(_process(*words, stderr=log.fileno()))
        told = {name: await _ready(process) for name, process in started.items()}
        made: dict[str, Subject] = {}
        for name, process in started.items():
            if name == "direct":
                made[name] = Subject(name, process)
                continue
            target = str(told[name].get("target") or f"127.0.0.1:{told[name]['port']}")
            server = Server(name, process, target)
            stack.push_async_callback(server.close)
            made[name] = server
        yield made
