"""A scripted engine behind the real API server, and a client, all in one process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from escalade.v1 import operations_service_pb2_grpc, router_service_pb2_grpc
from escalade.v1.completion_pb2 import ROLE_USER, Part
from escalade.v1.completion_pb2 import Message as WireMessage
from escalade.v1.escalation_pb2 import Event
from escalade.v1.router_service_pb2 import (
    CompleteRequest,
    CompleteResponse,
    RouteResponse,
)
from escalade_server.api.server import ApiServer, ServerOptions, build_server
from escalade_server.core.catalog import (
    Billing,
    Catalog,
    Counter,
    CounterScope,
    Layer,
    Model,
    Period,
    Scoring,
    TaskType,
    Unit,
)
from escalade_server.core.events import OutcomeReported, TextDelta
from escalade_server.core.facts import (
    Assessed,
    ErrorReason,
    Escalated,
    EscalationKind,
    EscalationReason,
    Failed,
    Finished,
    Selected,
)
from escalade_server.core.money import Price
from escalade_server.core.plan import Plan, plan
from escalade_server.core.rules import Rules
from escalade_server.core.standing import Standing, Verdict, VerdictClass
from escalade_server.core.task import Basis, FinishReason, Request, Text, Usage
from escalade_server.core.trace import (
    Answer,
    Assessment,
    AttemptRecord,
    AttemptStatus,
    Report,
    Skip,
)
from escalade_server.engine.late import Booked, ReservationUnknownError
from escalade_server.engine.ports import (
    NOWHERE,
    Caller,
    Origin,
    RawEvidence,
    Spend,
    TokenStore,
)
from escalade_server.engine.resume import ResumeTokenError
from escalade_server.engine.waiting import Waiter

NOW_MS = 1_800_000_000_000
CANARY = "canary-7f3a-never-on-the-wire"


def counter(key: str, scope: CounterScope, unit: Unit = Unit.REQUESTS, limit: int = 50) -> Counter:
    period = Period.MONTH if unit is Unit.NANOS else Period.DAY
    return Counter(key, unit, period, limit, scope, f"{key} label")


def model(name: str, layer: int, position: int, *, paid: bool = False) -> Model:
    counters = [counter(f"{name}/day", CounterScope.MODEL)]
    if paid:
        counters.append(counter(f"layer{layer}/cap", CounterScope.LAYER, Unit.NANOS, 8_000_000_000))
    counters.append(counter("all/cap", CounterScope.STRATEGY, Unit.NANOS, 20_000_000_000))
    return Model(
        provider=f"{name}-vendor",
        account="default",
        id=name,
        wire_id=f"{name}-wire",
        dialect="openai",
        layer=("free", "plan", "premium")[layer],
        layer_index=layer,
        position=position,
        capabilities=frozenset({"parsing"}),
        counters=tuple(counters),
        price=Price(1_000, 2_000),
        billing=Billing.METERED if paid else Billing.FREE,
    )


MODELS = (model("mini", 0, 0), model("flash", 0, 1), model("glm", 1, 2, paid=True))
CATALOG = Catalog(
    layers=(
        Layer("free", 0, 1, MODELS[:2]),
        Layer("plan", 1, 2, MODELS[2:], consent_required=True),
    ),
    scoring=Scoring(),
    rules=Rules(),
    task_types={},
    type_aliases={},
    other_type=TaskType("other", 5, frozenset()),
)
ASSESSMENT = Assessment(
    score_micro=4_900_000,
    uncapped_micro=4_900_000,
    files_micro=0,
    depth_micro=4_900_000,
    context_micro=0,
    threshold_micro=8_000_000,
    stated=False,
    type="debug",
    estimated=(("type", "the last message says 'why'"),),
    target_layer="free",
    start_layer="free",
)
ASSESSED = Assessed(ASSESSMENT)
ESCALATED = Escalated(
    "free", "plan", EscalationReason.RATE_LIMIT, "50 of 50 today", EscalationKind.FAILURE, 1
)


def selected(attempt: int = 1, of: Model = MODELS[0]) -> Selected:
    skip = Skip("free", MODELS[1], Verdict(VerdictClass.RATE, note="50 of 50 requests today"))
    return Selected(attempt, of, f"r{attempt}", NOW_MS + 600_000, 1_000, 4_096, (skip,))


def record(attempt: int = 1, of: Model = MODELS[0]) -> AttemptRecord:
    return AttemptRecord(
        number=attempt,
        model=of,
        reservation_id=f"r{attempt}",
        status=AttemptStatus.OK,
        reported_model="mini-2026",
        finish=FinishReason.STOP,
        failure=None,
        detail="",
        http_status=200,
        started_ms=NOW_MS,
        first_delta_ms=NOW_MS + 10,
        ended_ms=NOW_MS + 20,
        usage=Usage(10, 5),
        list_nanos=20_000,
        charged_nanos=0,
        basis=Basis.REPORTED,
    )


def report(request_id: str = "r", *, skips: tuple[Skip, ...] = ()) -> Report:
    return Report(
        request_id=request_id,
        assessment=ASSESSMENT,
        requested_model="",
        selected=MODELS[0],
        answered=MODELS[0],
        layer_path=("free",),
        attempts=(record(),),
        skips=skips,
        usage=Usage(10, 5),
        list_nanos=20_000,
        charged_nanos=0,
        baseline_model="glm",
        baseline_nanos=400_000,
        started_ms=NOW_MS,
        ended_ms=NOW_MS + 20,
        story="Score 4.9 → free; mini: 0.02 s.",
    )


def finished(text: str = "", request_id: str = "r") -> Finished:
    return Finished(report(request_id), Answer((Text(text),), FinishReason.STOP))


def failed(reason: ErrorReason, *, retry_at_ms: int | None = None, detail: str = "why") -> Failed:
    return Failed(reason, detail, report(), retry_at_ms, (("limit", "50"),))


@dataclass
class FakeRun:
    request: Request
    caller: Caller
    task_id: str = "0" * 31 + "7"
    left: asyncio.Event = field(default_factory=asyncio.Event)
    left_count: int = 0
    works: set["asyncio.Task[None]"] = field(default_factory=set)

    def leave(self) -> None:
        self.left_count += 1
        self.left.set()

    def extend(self, attempt: int) -> None:
        raise AssertionError(attempt)

    def end_reports(self) -> None:
        raise AssertionError


Script = Callable[[FakeRun], Awaitable[None]]


class FakeClock:
    def now_ms(self) -> int:
        return NOW_MS


class FakeEntropy:
    def __init__(self) -> None:
        self.drawn = 0

    def task_id(self) -> str:
        self.drawn += 1
        return f"{self.drawn:032x}"

    def jitter_ms(self, limit_ms: int) -> int:
        return limit_ms // 2


class FakeEngine:
    """Implements the engine's face; each started task plays the script."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script
        self.catalog = CATALOG
        self.clock = FakeClock()
        self.entropy = FakeEntropy()
        self.runs: list[FakeRun] = []
        self.started = asyncio.Event()
        self.standing_now = Standing()
        self.spends_now: tuple[Spend, ...] = ()
        self.start_error: Exception | None = None

    @property
    def running(self) -> int:
        return sum(not run.left.is_set() for run in self.runs)

    waiters: tuple[Waiter, ...] = ()
    ledger_wrong, free_goes_on = "", False

    def resumed(self, request: Request, origin: Origin, token: str) -> tuple[Request, Origin]:
        raise ResumeTokenError(f"{token} was given for another request")

    async def turn(self, request: Request, origin: Origin) -> None:
        """Nobody waits."""

    async def recalled(self, request: Request) -> Request:
        return request

    def start(self, request: Request, caller: Caller, origin: Origin = NOWHERE) -> FakeRun:
        if self.start_error is not None:
            raise self.start_error
        run = FakeRun(request, caller)
        self.runs.append(run)
        self.started.set()
        if self.script is not None:
            task: asyncio.Task[None] = asyncio.ensure_future(self.script(run))
            run.works.add(task)
        return run

    def plan(self, request: Request) -> Plan:
        return plan(self.catalog, request, self.standing_now, NOW_MS)

    async def report(
        self,
        reservation_id: str,
        outcome: OutcomeReported,
        agent: str,
        evidence: RawEvidence | None = None,
    ) -> Booked:
        raise ReservationUnknownError

    def standing(self) -> Standing:
        return self.standing_now

    def spends(self) -> tuple[Spend, ...]:
        return self.spends_now


@dataclass
class World:
    engine: FakeEngine
    api: ApiServer
    port: int
    channel: aio.Channel
    mistakes: list[Exception]

    @property
    def router(self) -> "router_service_pb2_grpc.RouterServiceAsyncStub":
        return router_service_pb2_grpc.RouterServiceStub(self.channel)

    @property
    def operations(self) -> "operations_service_pb2_grpc.OperationsServiceAsyncStub":
        return operations_service_pb2_grpc.OperationsServiceStub(self.channel)


@asynccontextmanager
async def world(
    script: Script | None = None,
    *,
    channel_options: tuple[tuple[str, Any], ...] = (),
    options: ServerOptions | None = None,
    compression: grpc.Compression | None = None,
    tokens: TokenStore | None = None,
    catalog: Catalog = CATALOG,
) -> AsyncIterator[World]:
    engine = FakeEngine(script)
    engine.catalog = catalog
    mistakes: list[Exception] = []

    def mistake(error: Exception) -> str:
        mistakes.append(error)
        return f"bug-{len(mistakes)}"

    api = build_server(engine, options or ServerOptions(port=0), mistakes=mistake, tokens=tokens)
    port = await api.start()
    async with aio.insecure_channel(
        f"127.0.0.1:{port}",
        options=(("grpc.use_local_subchannel_pool", 1), *channel_options),
        compression=compression,
    ) as channel:
        try:
            yield World(engine, api, port, channel, mistakes)
        finally:
            await api.stop(0)
            for run in engine.runs:
                for work in run.works:
                    work.cancel()
                await asyncio.gather(*run.works, return_exceptions=True)


def ask(text: str = "Why?", **fields: Any) -> CompleteRequest:
    message = WireMessage(role=ROLE_USER, parts=[Part(text=text)])
    return CompleteRequest(messages=[message], **fields)


@dataclass
class Told:
    """All that one call was told."""

    responses: Sequence[CompleteResponse | RouteResponse]
    code: grpc.StatusCode
    message: str
    status: status_pb2.Status | None
    trailers: dict[str, str | bytes]

    @property
    def events(self) -> list[Event]:
        return [event for response in self.responses for event in response.events]

    @property
    def kinds(self) -> list[str | None]:
        return [event.WhichOneof("kind") for event in self.events]

    def detail(self, kind: type[Message]) -> Any:
        assert self.status is not None
        for packed in self.status.details:
            made = kind()
            if packed.Unpack(made):
                return made
        return None

    @property
    def reason(self) -> str:
        info = self.detail(error_details_pb2.ErrorInfo)
        return "" if info is None else str(info.reason)


async def listen(call: Any) -> Told:
    """Read a call to its end."""
    responses: list[CompleteResponse | RouteResponse] = []
    with suppress(aio.AioRpcError):
        async for response in call:
            responses.append(response)  # noqa: PERF401 - what came before an error counts too
    return await told(call, responses)


async def told(call: Any, responses: Sequence[CompleteResponse | RouteResponse]) -> Told:
    trailers = dict(await call.trailing_metadata() or ())
    packed = trailers.get("grpc-status-details-bin")
    return Told(
        responses,
        await call.code(),
        await call.details() or "",
        status_pb2.Status.FromString(packed) if isinstance(packed, bytes) else None,
        trailers,
    )


async def answer_hello(run: FakeRun) -> None:
    """The plain script: assessed, selected, two deltas, finished."""
    run.caller.announce(ASSESSED)
    run.caller.announce(selected())
    run.caller.deliver(1, (TextDelta("Hel"),))
    run.caller.deliver(1, (TextDelta("lo"),))
    run.caller.end(finished("Hello", run.request.id))
