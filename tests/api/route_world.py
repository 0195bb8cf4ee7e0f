"""A whole server in this process, and a caller that calls the models itself, or says so."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

import grpc
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from escalade.v1 import completion_pb2 as c
from escalade.v1 import error_pb2, operations_service_pb2
from escalade.v1 import operations_service_pb2_grpc as operations
from escalade.v1 import router_service_pb2_grpc as services
from escalade.v1.escalation_pb2 import Constraints, Event, Task
from escalade.v1.router_service_pb2 import (
    FailureEvidence,
    Outcome,
    OutcomeFailed,
    OutcomeNotSent,
    OutcomeOk,
    OutcomeRejected,
    Progress,
    ReportOutcomeRequest,
    ReportOutcomeResponse,
    RouteRequest,
    RouteResponse,
)
from escalade_server import bootstrap
from escalade_server.bootstrap import Options, Running
from tests.api.world import Told, told

STRATEGY = """\
fallback_strategy:
  layers:
    - name: free
      models:
        - provider: openai
          model: gpt-4o-mini
          rate_limit: 50/day
          capabilities: [parsing]
        - provider: deepseek
          model: deepseek-chat
          rate_limit: 50/day
          capabilities: [parsing]
      priority: 1
      cost_per_month: 0
    - name: paid
      models:
        - provider: anthropic
          model: claude-3-haiku
          capabilities: [debugging]
          price: {input: 1, output: 5}
        - provider: openai
          model: gpt-4o
          capabilities: [debugging]
          price: {input: 2, output: 10}
      priority: 2
      trigger: free.exhausted
      monthly_cap: 5_usd
"""
KEYS = {"OPENAI_API_KEY": "a", "DEEPSEEK_API_KEY": "b", "ANTHROPIC_API_KEY": "c"}
USED = c.Usage(input_tokens=1_000, output_tokens=200)
COST_NANOS = 1_000 * 1_000 + 200 * 5_000
"""Of that on claude-3-haiku."""
RESERVE_NANOS = 4_000 * 1_000 + 500 * 5_000
"""Of the worst case of ``paid()``."""


class Served:
    """A running server with its channel."""

    def __init__(self, running: Running, channel: aio.Channel) -> None:
        self.running, self.channel = running, channel
        self.router: services.RouterServiceAsyncStub = services.RouterServiceStub(channel)
        self.operations: operations.OperationsServiceAsyncStub = operations.OperationsServiceStub(
            channel
        )

    def books(self, of: str = "paid") -> tuple[int, int]:
        """Answer spent and held of the cap of a layer, or of a model's window."""
        (spend,) = [s for s in self.running.engine.spends() if of in s.counter.key]
        return spend.spent, spend.held

    async def settled(self) -> None:
        """Wait until every task's books are closed."""
        await self.running.engine.drain()

    async def shown(self) -> tuple[int, int]:
        """Answer spent and held of the paid layer as ``GetStatus`` shows them."""
        status = await self.operations.GetStatus(operations_service_pb2.GetStatusRequest())
        (quota,) = status.layers[1].quotas
        return quota.spent, quota.held

    async def report(self, reservation_id: str, outcome: Outcome) -> ReportOutcomeResponse:
        asked = ReportOutcomeRequest(reservation_id=reservation_id, outcome=outcome)
        return await self.router.ReportOutcome(asked)

    async def refused(
        self,
        reservation_id: str,
        outcome: Outcome,
        credentials: tuple[tuple[str, str], ...] = (),
    ) -> str:
        """Report; answer code and reason of the refusal."""
        asked = ReportOutcomeRequest(reservation_id=reservation_id, outcome=outcome)
        ended = await told(self.router.ReportOutcome(asked, metadata=credentials), [])
        is_ok = ended.code is grpc.StatusCode.OK
        return "OK" if is_ok else f"{ended.code.name} {ended.reason}"


class Talk:
    """One call of Route, from the caller's side."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.events: list[Event] = []
        self._unheard: list[Event] = []

    @classmethod
    async def begin(cls, served: Served, first: RouteRequest, timeout_s: float = 30) -> Self:
        talk = cls(served.router.Route(timeout=timeout_s))
        await talk.call.write(first)
        return talk

    async def hear(self, kind: str) -> Any:
        """Read until the next event of this kind; answer it."""
        while True:
            while self._unheard:
                event = self._unheard.pop(0)
                if event.WhichOneof("kind") == kind:
                    return getattr(event, kind)
            response = await self.call.read()
            assert response is not aio.EOF, await self.call.details()
            self.events += response.events
            self._unheard += response.events

    async def say(self, outcome: Outcome) -> None:
        await self.call.write(RouteRequest(outcome=outcome))

    async def extend(self, attempt: int) -> None:
        await self.call.write(RouteRequest(progress=Progress(attempt=attempt)))

    async def end(self) -> Told:
        """Read to the end."""
        with suppress(aio.AioRpcError):
            while (response := await self.call.read()) is not aio.EOF:
                self.events += response.events
        return await told(self.call, [RouteResponse(events=self.events)])


def paid(**fields: Any) -> RouteRequest:
    """Ask for a model for a debug task of 4,000 tokens in, 500 out: the paid layer starts it."""
    return RouteRequest(
        task=Task(type="debug", tokens=4_000), max_output_tokens=500, request_id="r-1", **fields
    )


def within(seconds: float) -> Constraints:
    made = Duration()
    made.FromMilliseconds(int(seconds * 1_000))
    return Constraints(timeout=made)


def ok(attempt: int = 1, usage: c.Usage | None = USED) -> Outcome:
    made = OutcomeOk(usage=usage, finish_reason=c.FINISH_REASON_STOP, reported_model="haiku-x")
    return Outcome(attempt=attempt, ok=made)


def failed(cls: error_pb2.FailureClass.ValueType, attempt: int = 1) -> Outcome:
    return Outcome(attempt=attempt, failed=OutcomeFailed(failure_class=cls))


def evidence(attempt: int = 1, **fields: Any) -> Outcome:
    return Outcome(
        attempt=attempt, failed=OutcomeFailed(failure_evidence=FailureEvidence(**fields))
    )


def rejected(attempt: int = 1) -> Outcome:
    made = OutcomeRejected(gate=c.GATE_SCHEMA_VIOLATION, usage=USED, detail="no field `id`")
    return Outcome(attempt=attempt, rejected=made)


def not_sent(attempt: int = 1) -> Outcome:
    return Outcome(attempt=attempt, not_sent=OutcomeNotSent())


@asynccontextmanager
async def served(
    folder: Path, strategy: str = STRATEGY, auth: Literal["required", "optional"] = "optional"
) -> AsyncIterator[Served]:
    """Serve over the state in a folder; again, it is the same state."""
    file = folder / "strategy.yaml"
    file.write_text(strategy)
    options = Options(
        strategy=str(file), port=0, state=str(folder / "state.sqlite3"), grace_s=0.2,
        auth=auth,
    )  # fmt: skip
    running = await bootstrap.start(options, environ=KEYS, log_stream=io.StringIO())
    try:
        async with aio.insecure_channel(
            running.target, options=(("grpc.use_local_subchannel_pool", 1),)
        ) as channel:
            yield Served(running, channel)
    finally:
        await running.stop()


async def selected(server: Served, first: RouteRequest | None = None) -> tuple[Talk, str]:
    """Begin a task and take its first selection; answer its reservation too."""
    talk = await Talk.begin(server, first or paid())
    return talk, (await talk.hear("selected")).reservation_id


async def unreported(server: Served) -> str:
    """Take a selection and leave without a word."""
    talk, reservation = await selected(server)
    talk.call.cancel()
    await server.settled()
    return reservation
