"""``OperationsService``: shows the router as of now, and steers it."""

from collections import Counter as Counted
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from escalade.v1 import operations_service_pb2 as wire
from escalade.v1.escalation_pb2 import Quota
from escalade_server.api import model_state, trace, usage_report
from escalade_server.api.callers import Identity
from escalade_server.api.calls import Calls
from escalade_server.api.convert_out import (
    BILLINGS,
    CIRCUITS,
    VERDICTS,
    model_to_proto,
    quota_to_proto,
    reason_word,
    time_to_proto,
    wire_text,
)
from escalade_server.api.face import Engine
from escalade_server.api.methods import Context
from escalade_server.api.status import RefusedError, not_built
from escalade_server.api.strategies import (
    Strategies,
    Unchanging,
    findings_to_proto,
    info_to_proto,
)
from escalade_server.api.watch import Watch
from escalade_server.core.catalog import (
    Billing,
    Counter,
    CounterScope,
    Layer,
    Model,
    Rank,
)
from escalade_server.core.nominal import nominal_view
from escalade_server.core.policy import judge
from escalade_server.core.standing import CircuitState, Verdict, VerdictClass
from escalade_server.engine.controls import ModelDesk
from escalade_server.engine.feed import Feed
from escalade_server.engine.others import Others, Queued
from escalade_server.engine.traces import Traces
from escalade_server.engine.usage import Reports
from escalade_server.engine.waiting import Waiter

WAITERS_MAX = 1_000
"""Waiters listed in one status; all are counted."""
LEDGER_UNAVAILABLE = "ledger_unavailable"
"""The reason of a model whose calls cannot be booked now."""
_OF_MODEL = frozenset({CounterScope.MODEL, CounterScope.ACCOUNT})
_OF_LAYER = frozenset({CounterScope.LAYER})
_OF_ALL = frozenset({CounterScope.STRATEGY})


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What ``bootstrap`` knows of the running service. Instants in Unix ms."""

    version: str = ""
    started_ms: int = 0


class OperationsServicer:
    """Serves what is built; the methods it lacks are refused by name (``methods``)."""

    def __init__(
        self,
        engine: Engine,
        calls: Calls,
        info: ServiceInfo,
        *,
        feed: Feed | None = None,
        stall_s: float = 60.0,
        strategies: Strategies | None = None,
        reports: Reports | None = None,
        desk: ModelDesk | None = None,
        traces: Traces | None = None,
        others: Others | None = None,
    ) -> None:
        """Keep what the status is read from, and the feed; its watchers may stall so long."""
        self._engine = engine
        self._calls = calls
        self._info = info
        self._feed, self._stall_s = feed, stall_s
        self._strategies = strategies or Unchanging()
        self._reports, self._traces = reports, traces
        self._desk, self._others = desk, others

    async def WatchEvents(  # noqa: N802 - a proto name
        self, request: wire.WatchEventsRequest, context: Context, _caller: Identity
    ) -> None:
        """Stream the event feed, from a cursor or from now on."""
        if self._feed is None:
            raise RefusedError(not_built("OperationsService.WatchEvents without a feed"))
        await Watch(self._feed, request, self._stall_s).serve(context)

    async def GetStatus(  # noqa: N802 - a proto name
        self, _request: wire.GetStatusRequest, _context: Context, caller: Identity
    ) -> wire.GetStatusResponse:
        """Show every layer, model, quota, cap, cooldown and circuit as of now.

        An agent sees what it may use and until when it may not, with its own counters; what
        others have used is an operator's to see (D3).
        """
        engine, info = self._engine, self._info
        is_operator = caller.rank is Rank.OPERATOR
        agent = None if is_operator else caller.agent
        others = () if self._others is None else await self._others.figures()
        lines: list[Sequence[Waiter | Queued]] = [engine.waiters]
        lines += [other.waiters for other in others]
        attempts = Counted(self._calls.attempts())
        running, calls = engine.running, self._calls.of(caller.agent)
        for other in others:
            attempts.update(other.attempts)
            running, calls = running + other.running, calls + other.calls.get(caller.agent, 0)
        view = _View(engine, attempts, agent)
        return wire.GetStatusResponse(
            now=time_to_proto(view.now_ms),
            started=time_to_proto(info.started_ms),
            version=info.version,
            draining=self._calls.draining,
            strategy=info_to_proto(self._strategies.in_force, tells_why=is_operator),
            layers=[view.layer(layer) for layer in engine.catalog.layers],
            quotas=view.overall(caller),
            in_flight_count=running if is_operator else calls,
            waiters=waiters_to_proto(lines, agent),
            waiter_count=sum(map(len, lines)),
        )

    async def GetUsageReport(  # noqa: N802 - a proto name
        self, request: wire.GetUsageReportRequest, _context: Context, caller: Identity
    ) -> wire.GetUsageReportResponse:
        """Report the use of a day or a month: an operator sees all of it, an agent its own."""
        return await usage_report.serve(self._reports, request, caller)

    async def GetTrace(  # noqa: N802 - a proto name
        self, request: wire.GetTraceRequest, _context: Context, caller: Identity
    ) -> wire.GetTraceResponse:
        """Tell how one task went: an operator of any, an agent of its own."""
        return await trace.serve(self._traces, request, caller)

    async def SetModelState(  # noqa: N802 - a proto name
        self, request: wire.SetModelStateRequest, _context: Context, caller: Identity
    ) -> wire.SetModelStateResponse:
        """Set models aside, take them in again, or end their cooldowns."""
        now_ms = self._engine.clock.now_ms()
        models = await model_state.serve(self._desk, request, caller, now_ms)
        view = _View(self._engine, self._calls.attempts(), None)
        keys = {(model.layer, model.key) for model in models}
        return wire.SetModelStateResponse(
            models=[
                status
                for layer in self._engine.catalog.layers
                for model, status in zip(layer.models, view.layer(layer).models, strict=True)
                if (model.layer, model.key) in keys
            ]
        )

    async def ReloadStrategy(  # noqa: N802 - a proto name
        self, _request: wire.ReloadStrategyRequest, _context: Context, _caller: Identity
    ) -> wire.ReloadStrategyResponse:
        """Put the file as it is now in force, whole or not at all."""
        told = await self._strategies.reload()
        return wire.ReloadStrategyResponse(
            applied=told.applied,
            strategy=info_to_proto(self._strategies.in_force, tells_why=True),
            findings=findings_to_proto(told.findings),
        )

    async def CheckStrategy(  # noqa: N802 - a proto name
        self, request: wire.CheckStrategyRequest, _context: Context, _caller: Identity
    ) -> wire.CheckStrategyResponse:
        """Look at a text, or at the service's own file, and change nothing."""
        told = await self._strategies.check(request.yaml if request.HasField("yaml") else None)
        return wire.CheckStrategyResponse(
            valid=told.valid,
            findings=findings_to_proto(told.findings),
            not_in_effect=told.not_in_effect,
        )


def waiters_to_proto(
    lines: Iterable[Sequence[Waiter | Queued]], agent: str | None
) -> list[wire.Waiter]:
    """Show who waits, oldest first, each with its place; an agent sees its own alone (D3).

    Each worker has a line of its own.
    """
    shown = [
        (at, one)
        for line in lines
        for at, one in enumerate(line, start=1)
        if agent is None or one.agent == agent
    ]
    shown.sort(key=lambda place: (place[1].since_ms, place[1].request_id))
    return [
        wire.Waiter(
            agent=one.agent,
            request_id=one.request_id,
            since=time_to_proto(one.since_ms),
            earliest=time_to_proto(one.earliest_ms),
            reason=VERDICTS[one.reason],
            rule=wire_text(one.rule),
            position=at,
        )
        for at, one in shown[:WAITERS_MAX]
    ]


class _View:
    """One look at everything, at one instant."""

    def __init__(self, engine: Engine, attempts: Mapping[str, int], agent: str | None) -> None:
        """Look as an operator, or as an agent with its own eyes."""
        self.now_ms = engine.clock.now_ms()
        self._catalog, self._standing = engine.catalog, engine.standing()
        self._ledger_wrong, self._free_goes_on = engine.ledger_wrong, engine.free_goes_on
        self._spends = {spend.counter.key: spend for spend in engine.spends()}
        self._attempts = attempts
        self._sees_all = agent is None
        self._nominal = nominal_view(self._catalog, self._standing, self.now_ms, agent)

    def layer(self, layer: Layer) -> wire.LayerStatus:
        """Show a layer; it is exhausted when no model of it is ok, for whatever reason (R5)."""
        verdicts = [judge(model, layer, self._nominal)[0] for model in layer.models]
        exhausted = all(
            verdict.cls is not VerdictClass.OK or self._closed(model)
            for model, verdict in zip(layer.models, verdicts, strict=True)
        )
        instants = [v.until_ms for v in verdicts if v.until_ms is not None]
        return wire.LayerStatus(
            name=layer.name,
            priority=layer.priority,
            billing=BILLINGS[_billing(layer)],
            triggers=[trigger.text for trigger in layer.triggers],
            consent_required=layer.consent_required,
            exhausted=exhausted,
            until=time_to_proto(min(instants)) if exhausted and instants else None,
            quotas=self.quotas(layer.models, _OF_LAYER),
            models=[
                self._model(model, verdict)
                for model, verdict in zip(layer.models, verdicts, strict=True)
            ],
        )

    def quotas(self, models: Iterable[Model], scopes: frozenset[CounterScope]) -> list[Quota]:
        """Show the counters of these scopes, each once; an agent sees none that others use too."""
        if not self._sees_all:
            return []
        counters = (c for model in models for c in (*model.counters, *model.ordinary))
        return self._shown(counter for counter in counters if counter.scope in scopes)

    def overall(self, caller: Identity) -> list[Quota]:
        """Show the strategy's counters and those of agents: of all, or of the caller alone."""
        if not self._sees_all:
            return self._shown(caller.own.counters)
        agents = self._catalog.agents.values()
        own = self._shown(counter for agent in agents for counter in agent.counters)
        return self.quotas(self._catalog.models, _OF_ALL) + own

    def _shown(self, counters: Iterable[Counter]) -> list[Quota]:
        shown = []
        for key, counter in {counter.key: counter for counter in counters}.items():
            spend = self._spends.get(key)
            use = (0, 0, 0) if spend is None else (spend.spent, spend.held, spend.ends_ms)
            shown.append(quota_to_proto(counter, *use))
        return shown

    def _model(self, model: Model, verdict: Verdict) -> wire.ModelStatus:
        circuits = self._standing.circuits
        circuit = circuits.get(model.provider) or circuits.get(model.key)
        is_open = circuit is not None and circuit.state is CircuitState.OPEN
        detail, reason, cls = self._detail(verdict), reason_word(verdict.cause), verdict.cls
        if cls is VerdictClass.OK and (wrong := self._closed(model)):
            cls, reason = VerdictClass.DOWN, LEDGER_UNAVAILABLE
            detail = f"the ledger takes no entry{f': {wrong}' if self._sees_all else ''}"
        return wire.ModelStatus(
            target=model_to_proto(model),
            billing=BILLINGS[model.billing],
            capabilities=sorted(model.capabilities),
            verdict=VERDICTS[cls],
            reason=reason,
            detail=wire_text(detail),
            until=time_to_proto(verdict.until_ms),
            cooldown=self._cooldown(model),
            circuit=CIRCUITS[CircuitState.CLOSED if circuit is None else circuit.state],
            disabled=self._is_disabled(model),
            probe=time_to_proto(circuit.until_ms) if circuit is not None and is_open else None,
            quotas=self.quotas((model,), _OF_MODEL),
            in_flight_count=self._attempts.get(model.key, 0) if self._sees_all else 0,
        )

    def _closed(self, model: Model) -> str:
        """Say why it takes no task, whatever else: its calls cannot be booked."""
        goes_on = self._free_goes_on and model.billing is Billing.FREE
        return "" if goes_on else self._ledger_wrong

    def _is_disabled(self, model: Model) -> bool:
        set_aside = self._standing.disabled
        keys = (model.key, model.account_key, model.provider) if set_aside else ()
        return any(key in set_aside and set_aside[key].until_ms > self.now_ms for key in keys)

    def _detail(self, verdict: Verdict) -> str:
        """Say why; how far a counter is used is told only of one's own."""
        counter = verdict.counter
        if self._sees_all or counter is None or counter.scope is CounterScope.AGENT:
            return verdict.detail
        return ""

    def _cooldown(self, model: Model) -> wire.Cooldown | None:
        places = (
            ("model", model.key),
            ("account", model.account_key),
            ("provider", model.provider),
        )
        for scope, key in places:
            bench = self._standing.benches.get(key)
            if bench is not None and bench.until_ms > self.now_ms:
                return wire.Cooldown(
                    scope=scope,
                    reason=wire_text(bench.detail),
                    until=time_to_proto(bench.until_ms),
                )
        return None


def _billing(layer: Layer) -> Billing:
    """How a layer is paid for: the dearest way of its models."""
    ways = {model.billing for model in layer.models}
    for way in (Billing.METERED, Billing.SUBSCRIPTION):
        if way in ways:
            return way
    return Billing.FREE
