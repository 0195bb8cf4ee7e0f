"""Servers with less and less inside, so that differences show what each layer costs.

``python -m tests.bench.stages KIND BASE_URL FOLDER`` prints its port and serves until its
standard input ends. All answer what the prompt says (``mock_provider.Script``):

- ``empty``: grpcio alone; ready-made messages, as many as there are chunks.
- ``grpc``: the same with the request id sent ahead as initial metadata, as our API does (P12).
- ``api``: our servicers, over an engine that plays ready-made facts.
- ``engine``: engine and core too, over a provider in the process and books that only add up.
- ``http``: the provider is called over HTTP.
- ``store``: the books are a SQLite file. Only the log is left out, compared to the real server.
- ``direct``: no server at all: our HTTP client and codec call the provider. It takes its orders,
  ``Work`` in JSON, from standard input, and says when they are done.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from escalade.v1.router_service_pb2 import CompleteResponse
from escalade_server import bootstrap
from escalade_server.api.convert_out import put_event
from escalade_server.api.server import ServerOptions, build_server, channel_options
from escalade_server.checks.gates import AnswerGates
from escalade_server.core.alerting import marks_of
from escalade_server.core.catalog import Catalog, Counter, Model
from escalade_server.core.commands import CallModel, Candidate, Reserve, SetBench, Settle
from escalade_server.core.events import ChunkArrived, Finish, Reserved, TextDelta
from escalade_server.core.facts import Fact, Outcome
from escalade_server.core.ledger import Amounts
from escalade_server.core.standing import Standing
from escalade_server.core.tally import Tally
from escalade_server.core.task import (
    Delivery,
    FinishReason,
    Message,
    Request,
    Role,
    Task,
    Text,
    Usage,
)
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.engine import Engine
from escalade_server.engine.entropy import SystemEntropy
from escalade_server.engine.feed import Feed
from escalade_server.engine.ports import (
    NOWHERE,
    Kept,
    Observer,
    Origin,
    Providers,
    Spend,
    Store,
)
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.evidence import EvidenceClassifier
from escalade_server.providers.http import HttpClient, HttpLimits
from escalade_server.providers.registry import ProviderRegistry
from escalade_server.stores.sqlite import SqliteStore
from escalade_server.strategy.load import loads
from tests.api.world import ASSESSED, FakeEngine, FakeRun, finished, selected
from tests.bench.micro import Books
from tests.bench.mock_provider import PIECE, Script

KINDS = ("empty", "grpc", "api", "engine", "http", "store", "feed")
KEY_NAME = "BENCH_KEY"
KEY = "made-up"
_STRATEGY = """\
fallback_strategy:
  version: "2.0"
  layers:
    - name: free
      models:
        - provider: bench
          model: mock
          rate_limit:
            requests_per_day: 1000000000
            tokens_per_day: 1000000000000
          capabilities: [parsing]
      priority: 1
providers:
  bench:
    base_url: {base_url}
    dialect: openai
    api_key_env: {key_name}
"""


@dataclass(frozen=True, slots=True)
class Work:
    """What one measurement does: ``calls`` calls by ``callers`` at once, all alike."""

    script: Script
    callers: int
    calls: int
    streamed: bool
    interval_ms: float = 0
    """Calls begin at this pace, whoever is still busy; 0: each caller begins when it is done."""


def strategy(base_url: str) -> str:
    """One free model on the mock, with limits that are counted and never reached."""
    return _STRATEGY.format(base_url=base_url, key_name=KEY_NAME)


def catalog_at(base_url: str) -> Catalog:
    """Load that strategy."""
    return loads(strategy(base_url), environ={KEY_NAME: KEY}).catalog


def registry(http: HttpClient, base_url: str, clock: SystemClock) -> ProviderRegistry:
    """Find the mock's provider, over HTTP."""
    return ProviderRegistry.over_http(
        [("openai", Endpoint("bench", "default", base_url, KEY))], http, clock
    )


class Nobody:
    """An observer that looks away."""

    def fact(self, task_id: str, request: Request, fact: Fact, now_ms: int) -> None: ...

    def ended(self, task_id: str, request: Request, outcome: Outcome) -> None: ...


class InProcess:
    """A provider without a wire: one read for each chunk, and the end with the last."""

    def of(self, model: Model) -> "InProcess":
        return self

    async def call(self, order: CallModel, request: Request) -> AsyncGenerator[ChunkArrived, None]:
        script = _script_of(request)
        for number in range(1, script.chunks + 1):
            await asyncio.sleep(script.pause_ms / 1_000)
            delta = (TextDelta(PIECE),)
            if number < script.chunks:
                yield ChunkArrived(order.attempt, delta)
            else:
                yield ChunkArrived(
                    order.attempt, delta, Finish(FinishReason.STOP), Usage(12, 3 * number), "mock"
                )


def _script_of(request: Request) -> Script:
    (part,) = request.messages[-1].parts
    assert isinstance(part, Text)
    return Script.of(part.text.encode())


async def play(run: FakeRun) -> None:
    """Tell the engine's side of an uneventful task."""
    caller, script = run.caller, _script_of(run.request)
    caller.announce(ASSESSED)
    caller.announce(selected())
    for _ in range(script.chunks):
        await asyncio.sleep(script.pause_ms / 1_000)
        if run.request.delivery is Delivery.STREAM:
            caller.deliver(1, (TextDelta(PIECE),))
            await caller.writable()
    caller.end(finished(script.text, run.request.id))
    run.leave()


class Forgetful(FakeEngine):
    """Plays that script, and keeps no run."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks = set[asyncio.Task[None]]()

    def start(self, request: Request, caller: Any, origin: Origin = NOWHERE) -> FakeRun:
        run = FakeRun(request, caller)
        task = asyncio.get_running_loop().create_task(play(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run


class Sums:
    """A store that does the ledger's arithmetic and keeps nothing."""

    def __init__(self, of: Model) -> None:
        self._loop = asyncio.get_running_loop()
        self._books = Books(of)
        self._held: dict[str, Amounts] = {}

    async def open(self, counters: Sequence[Counter]) -> None: ...

    async def adopt(self, counters: Sequence[Counter], marks: object = None) -> None: ...

    async def close(self) -> None: ...

    def standing(self, now_ms: int) -> Standing:
        return Standing(self._books.balances)

    def spends(self, now_ms: int) -> tuple[Spend, ...]:
        return ()

    def reserve(self, order: Reserve, now_ms: int) -> "asyncio.Future[Reserved]":
        candidate = order.candidates[0]
        self._held[order.reservation_id] = self._books.reserve(candidate)
        done: asyncio.Future[Reserved] = self._loop.create_future()
        done.set_result(Reserved(order.attempt, candidate.model.position))
        return done

    def settle(self, order: Settle, now_ms: int) -> "asyncio.Future[None]":
        self._books.settle(self._held.pop(order.reservation_id), order)
        return self.bench(order, now_ms)

    async def tally(self, order: Tally, now_ms: int) -> None: ...

    async def find(self, reservation_id: str) -> Kept | None: ...

    def bench(self, order: Settle | SetBench, now_ms: int) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = self._loop.create_future()
        done.set_result(None)
        return done


def bare(*, ahead: bool) -> Callable[[bytes, Any], Awaitable[None]]:
    """A handler that only writes: what grpcio itself costs."""
    delta = CompleteResponse()
    delta.events.add(sequence=1).delta.text = PIECE
    chunk = delta.SerializeToString()

    def last(text: str) -> bytes:
        response = CompleteResponse()
        facts: list[Fact | Outcome] = [ASSESSED, selected(), finished(text)]
        for number, fact in enumerate(facts, 1):
            put_event(response.events.add(), number, fact, whole=True)
        return response.SerializeToString()

    endings = {chunks: last(PIECE * chunks) for chunks in (1, 64)}

    async def complete(request: bytes, context: Any) -> None:
        script = Script.of(request)
        if ahead:
            await context.send_initial_metadata((("escalade-request-id", "0" * 32),))
        for _ in range(script.chunks if script.chunks > 1 else 0):
            await asyncio.sleep(script.pause_ms / 1_000)
            await context.write(chunk)
        await context.write(endings[script.chunks])

    return complete


async def _serve_bare(kind: str, stack: AsyncExitStack) -> int:
    server = aio.server(options=channel_options(ServerOptions()))
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Complete": grpc.unary_stream_rpc_method_handler(bare(ahead=kind == "grpc"))
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("escalade.v1.RouterService", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    stack.push_async_callback(server.stop, None)
    await server.start()
    return port


async def _serve(kind: str, base_url: str, folder: Path, stack: AsyncExitStack) -> int:
    engine: Engine | Forgetful = Forgetful()
    if kind != "api":
        clock, catalog = SystemClock(), catalog_at(base_url)
        providers: Providers = InProcess()
        if kind != "engine":
            http = await stack.enter_async_context(HttpClient(HttpLimits()))
            providers = registry(http, base_url, clock)
        store: Store = Sums(catalog.models[0])
        observer: Observer = Nobody()
        if kind in {"store", "feed"}:
            store = sqlite = SqliteStore(folder / f"{kind}.sqlite3", clock, Calendar())
            if kind == "feed":
                observer = feed = Feed(sqlite, clock)
                sqlite.follow(feed.told, marks_of(catalog))
        await store.open([counter for model in catalog.models for counter in model.counters])
        stack.push_async_callback(store.close)
        engine = Engine(
            catalog=catalog, store=store, providers=providers, clock=clock,
            entropy=SystemEntropy(), observer=observer, classifier=EvidenceClassifier(),
            checker=AnswerGates(),
        )  # fmt: skip
    server = build_server(engine, ServerOptions(port=0))
    stack.push_async_callback(server.stop, 0.1)
    return await server.start()


async def _direct(base_url: str) -> None:
    """Obey orders: call the provider with our client and codec, without a server."""
    loop, clock = asyncio.get_running_loop(), SystemClock()
    async with HttpClient(HttpLimits()) as http:
        provider = Direct(http, base_url, clock)
        print(json.dumps({"port": 0}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(line)
            work = Work(**{**order, "script": Script(*order["script"])})

            async def some(count: int, work: Work = work) -> None:
                for _ in range(count):
                    assert await provider.text(work.script) == work.script.text

            each = work.calls // work.callers
            await asyncio.gather(*(some(each) for _ in range(work.callers)))
            print(json.dumps({"done": each * work.callers}), flush=True)


class Direct:
    """One call at a time from here to the provider."""

    def __init__(self, http: HttpClient, base_url: str, clock: SystemClock) -> None:
        self._model = catalog_at(base_url).models[0]
        self._provider = registry(http, base_url, clock).of(self._model)
        self._order = CallModel(1, Candidate(self._model, 100, 0, 4_096))
        self._clock = clock

    async def pieces(self, script: Script) -> AsyncGenerator[str, None]:
        """Call, and answer the text as it comes."""
        message = Message(Role.USER, (Text(script.prompt()),))
        request = Request("r", Task("parse"), (message,), deadline_ms=self._clock.now_ms() + 60_000)
        async with aclosing(self._provider.call(self._order, request)) as chunks:
            async for chunk in chunks:
                yield "".join(d.text for d in chunk.deltas if isinstance(d, TextDelta))

    async def text(self, script: Script) -> str:
        """Call, and answer the whole text."""
        return "".join([piece async for piece in self.pieces(script)])


def encode(work: Work) -> bytes:
    """Write an order for ``direct``."""
    return json.dumps(asdict(work)).encode() + b"\n"


async def main(kind: str, base_url: str, folder: Path) -> None:
    """Serve until standard input ends."""
    if kind == "direct":
        await _direct(base_url)
        return
    async with AsyncExitStack() as stack:
        if kind in ("empty", "grpc"):
            port = await _serve_bare(kind, stack)
        else:
            port = await _serve(kind, base_url, folder, stack)
        print(json.dumps({"port": port}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    _, *words = sys.argv
    bootstrap.run(main(words[0], words[1], Path(words[2])))
