"""Agents: from what the file allows each of them to the core's own terms, and its mistakes."""

from collections.abc import Iterable, Mapping, Sequence

from escalade_server.core.catalog import Agent, Layer, Model
from escalade_server.core.task import DataDemand
from escalade_server.strategy import model as config
from escalade_server.strategy.counters import agent_counters
from escalade_server.strategy.errors import Path, StrategyError, did_you_mean
from escalade_server.strategy.yaml_nodes import Document, Value, shorten

DEMANDS = {
    "any": DataDemand.NONE,
    "no_training": DataDemand.NO_TRAINING,
    "private": DataDemand.PRIVATE,
}
ALL = "*"


def agents(strategy: config.Strategy, layers: Sequence[Layer]) -> dict[str, Agent]:
    """Resolve every agent of the file."""
    return {
        name: Agent(
            name=name,
            rank=own.role,
            forbidden=forbidden(own, layers),
            free_only=own.free_only,
            spend_limit_nanos=own.spend_limit_per_task,
            may_downgrade=own.may_downgrade,
            consented_layers=tuple(own.consent),
            data_demand=DEMANDS[own.data],
            counters=agent_counters(strategy, name, own),
            calls_max=own.concurrency,
            trusted_reports=own.trusted_reports,
        )
        for name, own in strategy.agents.items()
    }


def forbidden(own: config.Agent, layers: Sequence[Layer]) -> frozenset[str]:
    """Find the models that an agent may not use: what it may is never wider than each list."""
    return frozenset(
        model.key
        for layer in layers
        for model in layer.models
        if (own.layers is not None and layer.name not in own.layers)
        or (own.models is not None and not _is_named(model, own.models))
        or _is_named(model, own.denied_models)
    )


def _is_named(model: Model, names: Sequence[str]) -> bool:
    return not {model.id, f"{model.provider}/{model.id}", model.key}.isdisjoint(names)


def check_agents(
    document: Document,
    stated: Mapping[str, tuple[Path, dict[str, Value]]],
    layers: Sequence[str],
    models: Sequence[Mapping[str, Value]],
) -> Iterable[StrategyError]:
    """Refuse layers and models that the file does not have: a typo must not open anything."""
    names = {f"{model.get('provider')}/{model.get('model')}" for model in models}
    names |= {str(model.get("model")) for model in models}
    names |= {
        f"{model.get('provider')}/{model.get('account', 'default')}/{model.get('model')}"
        for model in models
    }
    for path, entry in stated.values():
        known = {"layers": layers, "consent": [*layers, ALL]}
        known |= {"models": sorted(names), "denied_models": sorted(names)}
        for key, allowed in known.items():
            listed = entry.get(key)
            for at, name in enumerate(listed if isinstance(listed, list) else []):
                if isinstance(name, str) and name not in allowed:
                    kind = "model" if key.endswith("models") else "layer"
                    mend = did_you_mean(name, allowed)
                    yield document.error(
                        (*path, key, at), f"no such {kind} in the file", f'"{shorten(name)}"',
                        ", ".join(allowed), mend,
                    )  # fmt: skip
        rates = entry.get("rate_limit")
        if isinstance(rates, dict) and "cooldown_on_limit" in rates:
            yield document.error(
                (*path, "rate_limit", "cooldown_on_limit"), "it rests models, not agents",
                mend="remove it here: the next window opens by itself",
            )  # fmt: skip
