"""The real server in this process, over providers that a test scripts, on a clock that can leap.

Everything is the product's own, wired by ``bootstrap``; only the clock can be set ahead, so that a
cooldown of a month is over at once, for the server, its store and its providers alike.
"""

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import aio

from escalade.v1 import error_pb2, operations_service_pb2_grpc, router_service_pb2_grpc
from escalade.v1 import escalation_pb2 as e
from escalade.v1.operations_service_pb2 import GetStatusRequest, GetStatusResponse, ModelStatus
from escalade_server.api.server import ApiServer, ServerOptions, build_server
from escalade_server.bootstrap import Running
from escalade_server.core.catalog import Unit
from escalade_server.engine.clock import SystemClock
from escalade_server.provider_simulator import (
    Account,
    ModelScript,
    ProviderScript,
    Scenario,
    Simulator,
)
from escalade_server.provider_simulator import Price as Priced
from tests.api.world import Told, ask, listen
from tests.e2e.accounts import serving

KEY = "PROVIDER_KEY"
PRICE = Priced(input_pico=1_000_000, output_pico=2_000_000)
"""As ``{input: 1, output: 2}`` in a strategy."""
LOCAL = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(slots=True)
class Served:
    """One server; ``channel`` is a client of it."""

    running: Running
    simulator: Simulator
    channel: aio.Channel

    @property
    def router(self) -> "router_service_pb2_grpc.RouterServiceAsyncStub":
        return router_service_pb2_grpc.RouterServiceStub(self.channel)

    @property
    def now_ms(self) -> int:
        return self.running.engine.clock.now_ms()

    def leap(self, ahead_ms: int) -> None:
        """Set the one clock of server, store and providers ahead."""
        clock = self.running.engine.clock
        assert isinstance(clock, SystemClock)
        wall, ahead_ns = clock._wall_ns, ahead_ms * 1_000_000
        origin, base, ppm, steer_at = clock._line
        clock._wall_ns = lambda: wall() + ahead_ns
        clock._line = (origin, base + ahead_ns, ppm, steer_at)

    async def ask(self, text: str = "Parse this.", **fields: Any) -> Told:
        """Make one call of ``Complete`` and hear it to its end.

        It does not wait for capacity, unless it ``waits`` or has an id: then it is as it is said.
        """
        waits = fields.pop("waits", "request_id" in fields)
        request = ask(text, **fields)
        if not waits:
            request.constraints.may_wait = False
        return await listen(self.router.Complete(request))

    async def status(self) -> GetStatusResponse:
        stub: operations_service_pb2_grpc.OperationsServiceAsyncStub = (
            operations_service_pb2_grpc.OperationsServiceStub(self.channel)
        )
        return await stub.GetStatus(GetStatusRequest())

    async def model(self, name: str) -> ModelStatus:
        """Look at a model as an operator sees it."""
        status = await self.status()
        found = [m for layer in status.layers for m in layer.models if m.target.model == name]
        assert len(found) == 1, name
        return found[0]

    def account(self, provider: str, model: str) -> Account:
        """What a provider itself counted for a model."""
        return self.simulator.ledger().of(provider, model)

    def calls(self) -> dict[str, int]:
        """Calls that providers got, by model; models without any are left out."""
        accounts = self.simulator.ledger().accounts.values()
        return {a.model: a.requests_received for a in accounts if a.requests_received}

    def held(self) -> int:
        """Everything that is still held, in all counters."""
        return sum(spend.held for spend in self.running.engine.spends())

    def spent(self, part: str) -> int:
        """Units spent in the counters of whose key this is a part."""
        return sum(s.spent for s in self.running.engine.spends() if part in s.counter.key)

    def booked_nanos(self) -> int:
        """Money on our books in caps."""
        spends = self.running.engine.spends()
        return sum(s.spent for s in spends if s.counter.unit is Unit.NANOS)


@asynccontextmanager
async def served(
    folder: Path,
    strategy: str,
    providers: Mapping[str, Mapping[str, ModelScript]],
    log: io.StringIO | None = None,
) -> AsyncIterator[Served]:
    """Serve a strategy in which ``<name>`` stands for what a simulated provider needs said."""
    scripts = {name: ProviderScript(models=models) for name, models in providers.items()}
    simulator = Simulator(Scenario(providers=scripts))
    async with serving(folder, strategy, simulator, {KEY: "made-up"}, log) as running:
        simulator.now_ms = running.engine.clock.now_ms
        async with aio.insecure_channel(running.target, options=LOCAL) as channel:
            yield Served(running, simulator, channel)


@asynccontextmanager
async def door(running: Running, options: ServerOptions) -> AsyncIterator[tuple[ApiServer, int]]:
    """Open a second door to a running engine, with limits of its own; answer it and its port."""
    api = build_server(running.engine, options)
    port = await api.start()
    try:
        yield api, port
    finally:
        await api.stop(0)


def attempts(told: Told) -> list[e.Attempt]:
    """What a task tried, by its own report."""
    last = told.events[-1]
    ending = last.finished if last.HasField("finished") else last.failed
    return list(ending.report.attempts)


def tried(told: Told) -> list[str]:
    """Models that a task tried, in order."""
    return [attempt.target.model for attempt in attempts(told)]


def alerts(told: Told) -> list[str]:
    """Kinds of the alerts that a task announced."""
    names = [e.AlertKind.Name(event.alert.kind) for event in told.events if event.HasField("alert")]
    return [name.removeprefix("ALERT_KIND_") for name in names]


def failure(attempt: e.Attempt) -> str:
    return error_pb2.FailureClass.Name(attempt.failure_class).removeprefix("FAILURE_CLASS_")
