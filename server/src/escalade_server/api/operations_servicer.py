"""``OperationsService``: shows the router as of now; the methods that steer it are not built."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from escalade.v1 import operations_service_pb2 as wire
from escalade.v1.escalation_pb2 import Quota
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

_OF_MODEL = frozenset({CounterScope.MODEL, CounterScope.ACCOUNT})
_OF_LAYER = frozenset({CounterScope.LAYER})
_OF_ALL = frozenset({CounterScope.STRATEGY})


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What ``bootstrap`` knows of the running service and its strategy. Instants in Unix ms."""

    version: str = ""
    started_ms: int = 0
    strategy_version: str = ""
    strategy_sha256: str = ""
    strategy_loaded_ms: int = 0
    not_in_effect: tuple[str, ...] = ()
    """Keys and values of the file that this server does not put into effect yet."""


class OperationsServicer:
    """Serves ``GetStatus``; the methods it lacks are refused by name (``methods``)."""

    def __init__(self, engine: Engine, calls: Calls, info: ServiceInfo) -> None:
        """Keep what the status is read from."""
        self._engine = engine
        self._calls = calls
        self._info = info

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
        view = _View(engine, self._calls.attempts(), agent)
        return wire.GetStatusResponse(
            now=time_to_proto(view.now_ms),
            started=time_to_proto(info.started_ms),
            version=info.version,
            draining=self._calls.draining,
            strategy=wire.StrategyInfo(
                version=info.strategy_version,
                sha256=info.strategy_sha256,
                loaded=time_to_proto(info.strategy_loaded_ms),
                not_in_effect=info.not_in_effect,
            ),
            layers=[view.layer(layer) for layer in engine.catalog.layers],
            quotas=view.overall(caller),
            in_flight_count=engine.running if is_operator else self._calls.of(caller.agent),
        )


class _View:
    """One look at everything, at one instant."""

    def __init__(self, engine: Engine, attempts: Mapping[str, int], agent: str | None) -> None:
        """Look as an operator, or as an agent with its own eyes."""
        self.now_ms = engine.clock.now_ms()
        self._catalog, self._standing = engine.catalog, engine.standing()
        self._spends = {spend.counter.key: spend for spend in engine.spends()}
        self._attempts = attempts
        self._sees_all = agent is None
        self._nominal = nominal_view(self._catalog, self._standing, self.now_ms, agent)

    def layer(self, layer: Layer) -> wire.LayerStatus:
        """Show a layer; it is exhausted when no model of it is ok, for whatever reason (R5)."""
        verdicts = [judge(model, layer, self._nominal)[0] for model in layer.models]
        exhausted = all(verdict.cls is not VerdictClass.OK for verdict in verdicts)
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
        return self._shown(c for model in models for c in model.counters if c.scope in scopes)

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
        return wire.ModelStatus(
            target=model_to_proto(model),
            billing=BILLINGS[model.billing],
            capabilities=sorted(model.capabilities),
            verdict=VERDICTS[verdict.cls],
            reason=reason_word(verdict.cause),
            detail=wire_text(self._detail(verdict)),
            until=time_to_proto(verdict.until_ms),
            cooldown=self._cooldown(model),
            circuit=CIRCUITS[CircuitState.CLOSED if circuit is None else circuit.state],
            probe=time_to_proto(circuit.until_ms) if circuit is not None and is_open else None,
            quotas=self.quotas((model,), _OF_MODEL),
            in_flight_count=self._attempts.get(model.key, 0) if self._sees_all else 0,
        )

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
