"""Tasks drawn from a seed: what is asked, under which limits, when, and how patiently."""

from random import Random
from typing import NamedTuple

from escalade_server.core.catalog import Catalog
from escalade_server.core.task import (
    Constraints,
    DataDemand,
    Delivery,
    Feature,
    Message,
    OnInterruption,
    Request,
    Role,
    Task,
    Text,
)
from escalade_server.simulation.chance import between, maybe, pick
from escalade_server.simulation.strategies import MILLI_USD, SKILLS, TYPES

SIZES = (20, 20, 200, 200, 1_000, 1_000, 9_000)
MESSAGES = {size: (Message(Role.USER, (Text("x" * size),)),) for size in SIZES}
DELIVERIES = (*[Delivery.STREAM] * 5, *[Delivery.WHOLE] * 3, Delivery.ROUTE)


class Arrival(NamedTuple):
    """A task comes at this instant of the run; its caller may leave so long after that."""

    at_us: int
    request: Request
    leaves_after_us: int | None = None


def number_of(request: Request) -> int:
    """Answer which task of the run it is, from 1."""
    return int(request.id[1:])


def draw_arrivals(
    rng: Random, catalog: Catalog, begin_ms: int, count: int, span_us: int
) -> list[Arrival]:
    """Draw tasks that come within a span, the half of them in two crowds."""
    crowds = [between(rng, 0, span_us) for _ in range(2)]
    within_us = pick(rng, (500, 5_000, 200_000, 2_000_000))
    instants = sorted(
        pick(rng, crowds) + between(rng, 0, within_us)
        if maybe(rng, 50)
        else between(rng, 0, span_us)
        for _ in range(count)
    )
    arrivals = []
    for number, at_us in enumerate(instants, start=1):
        request = _request(rng, catalog, number, begin_ms + at_us // 1_000)
        leaves = between(rng, 0, 20_000_000) if maybe(rng, 10) else None
        arrivals.append(Arrival(at_us, request, leaves))
    return arrivals


def _request(rng: Random, catalog: Catalog, number: int, now_ms: int) -> Request:
    size = pick(rng, SIZES)
    task = Task(
        type=pick(rng, (*TYPES, "whatever")),
        files=between(rng, 0, 12) if maybe(rng, 70) else None,
        tokens=between(rng, 0, 60_000) if maybe(rng, 50) else None,
        complexity_micro=between(rng, 0, 10_000_000) if maybe(rng, 8) else None,
        capabilities=(pick(rng, SKILLS),) if maybe(rng, 8) else (),
        data_demand=pick(rng, tuple(DataDemand)) if maybe(rng, 8) else DataDemand.NONE,
    )
    return Request(
        id=f"r{number}",
        task=task,
        messages=MESSAGES[size],
        output_tokens_max=between(rng, 1, 4_000) if maybe(rng, 40) else None,
        constraints=_constraints(rng, catalog) if maybe(rng, 35) else Constraints(),
        on_interruption=pick(rng, tuple(OnInterruption)),
        delivery=pick(rng, DELIVERIES),
        agent=pick(rng, tuple(catalog.agents)) if catalog.agents else "",
        trusted_reports=maybe(rng, 50),
        deadline_ms=now_ms + pick(rng, (0, 500, 5_000, 30_000, 60_000, 60_000, 300_000)),
        features=frozenset({pick(rng, tuple(Feature))}) if maybe(rng, 5) else frozenset(),
    )


def _constraints(rng: Random, catalog: Catalog) -> Constraints:
    names = [layer.name for layer in catalog.layers]
    models = [model.id for model in catalog.models]
    low, high = sorted((between(rng, 0, len(names) - 1), between(rng, 0, len(names) - 1)))
    return Constraints(
        lowest_layer=names[low] if maybe(rng, 25) else "",
        highest_layer=names[high] if maybe(rng, 25) else "",
        allowed_models=tuple(rng.sample(models, 2)) if maybe(rng, 10) and models[2:] else (),
        denied_models=(pick(rng, models),) if maybe(rng, 15) else (),
        spend_limit_nanos=between(rng, 0, 80) * MILLI_USD if maybe(rng, 35) else None,
        free_only=maybe(rng, 25),
        may_downgrade=pick(rng, (None, True, False)),
        consented_layers=pick(rng, ((), (), ("*",), (names[-1],))),
    )
