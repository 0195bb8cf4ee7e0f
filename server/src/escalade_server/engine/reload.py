"""What a change of strategy means for the books: which counters stay, and whose limits hold."""

from collections.abc import Iterable
from dataclasses import replace

from escalade_server.core.catalog import Catalog, Counter, CounterScope
from escalade_server.core.commands import Candidate, Reserve
from escalade_server.engine.ports import Spend


def counters_of(catalog: Catalog) -> dict[str, Counter]:
    """List every counter of a strategy once, by its key, in the order of the file."""
    counters = [c for model in catalog.models for c in (*model.counters, *model.ordinary)]
    counters += [counter for agent in catalog.agents.values() for counter in agent.counters]
    return {counter.key: counter for counter in counters}


def under(catalog: Catalog, order: Reserve) -> Reserve:
    """Put a task of an earlier strategy under the limits in force: they hold from now on (G13).

    A counter that is in force no more keeps the limit it had.
    """
    limits = counters_of(catalog)
    return replace(order, candidates=tuple(_under(limits, c) for c in order.candidates))


def _under(limits: dict[str, Counter], candidate: Candidate) -> Candidate:
    def now(counters: tuple[Counter, ...]) -> tuple[Counter, ...]:
        return tuple(limits.get(counter.key, counter) for counter in counters)

    model = replace(candidate.model, counters=now(candidate.model.counters))
    return replace(candidate, model=model, extra=now(candidate.extra))


def lost(old: Catalog, new: Catalog, spends: Iterable[Spend]) -> list[tuple[str, Spend]]:
    """Name the layers that are gone, whose caps would forget what was spent of them (R18).

    A renamed layer says what it ``was:``, and keeps its counter. A cap that is taken off a layer
    that stays, or a model, provider or agent that goes, forgets nothing: the books keep it.
    """
    known, names = counters_of(new), {layer.name for layer in new.layers}
    of_layer = {
        counter.key: layer.name
        for layer in old.layers
        for model in layer.models
        for counter in model.counters
        if counter.scope is CounterScope.LAYER
    }
    return [
        (of_layer[spend.counter.key], spend)
        for spend in spends
        if spend.counter.key in of_layer
        and spend.counter.key not in known
        and of_layer[spend.counter.key] not in names
        and (spend.spent or spend.held)
    ]
