"""Worlds made from a seed: a strategy, its tasks, and how providers, store and clock are."""

from enum import Enum
from random import Random
from typing import NamedTuple

from escalade_server.core.catalog import Billing, Catalog, Layer, Model, Scoring
from escalade_server.core.money import Price
from escalade_server.core.rules import OnOutage, Rules
from escalade_server.core.task import Delivery, OnInterruption, Request, Task
from escalade_server.simulation.agenda import Jump
from escalade_server.simulation.chance import between, chance, maybe, pick
from escalade_server.simulation.gates import gated, wishing
from escalade_server.simulation.providers import HEALTHY, Character, Ill, Phase, Providers
from escalade_server.simulation.sessions import stepping
from escalade_server.simulation.strategies import OTHER, PROVIDERS, TYPES, draw_catalog
from escalade_server.simulation.waits import patient
from escalade_server.simulation.weather import Spell, StoreWeather, Trouble
from escalade_server.simulation.workload import MESSAGES, Arrival, draw_arrivals

SECOND_US = 1_000_000
BOUNDARIES_MS = (
    1_793_491_200_000,  # 2026-11-01T00:00Z: a month ends
    1_793_523_600_000,  # 2026-11-01T09:00Z: Los Angeles leaves summer time, its day has 25 hours
    1_793_516_400_000,  # 2026-11-01T07:00Z: a month ends in Los Angeles
    1_792_886_400_000,  # 2026-10-25T00:00Z: Berlin's day of 25 hours began two hours ago
    1_793_577_600_000,  # 2026-11-02T00:00Z: a week begins
    1_798_761_600_000,  # 2027-01-01T00:00Z: a year begins
    1_794_614_400_000,  # 2026-11-14T00:00Z: a billing month ends
)
CHAOS_TASKS = (6, 12, 12, 18, 24)
CROWD_PERCENT, OUTAGE_PERCENT = 0.5, 1.5
HEALED_US = 15 * SECOND_US
"""How long after healing things may still go wrong."""


class Kind(Enum):
    """What a world is made to show."""

    CHAOS = "chaos"
    """Anything at once."""
    CROWD = "crowd"
    """The same, with hundreds of tasks."""
    OUTAGE = "outage"
    """One provider of several goes down and heals: work goes on, and little of it is wasted."""
    BLACKOUT = "blackout"
    """All providers go down and heal: work comes back soon."""


class World(NamedTuple):
    """All that a run needs. ``sick`` is when providers are down, in an OUTAGE or BLACKOUT."""

    seed: int
    kind: Kind
    catalog: Catalog
    begin_ms: int
    jumps: tuple[Jump, ...]
    arrivals: tuple[Arrival, ...]
    providers: Providers
    weather: StoreWeather
    sick: Phase | None = None


def world(seed: int) -> World:
    """Make the world of a seed."""
    rng = chance(seed, 0)
    dice = rng.random() * 100
    if dice < CROWD_PERCENT:
        return chaos(seed, rng, Kind.CROWD, between(rng, 150, 400))
    if dice < CROWD_PERCENT + OUTAGE_PERCENT:
        return outage(seed, rng, Kind.OUTAGE if maybe(rng, 60) else Kind.BLACKOUT)
    return chaos(seed, rng, Kind.CHAOS, pick(rng, CHAOS_TASKS))


def chaos(seed: int, rng: Random, kind: Kind, tasks: int) -> World:
    """Make a world in which anything goes wrong."""
    catalog = gated(seed, draw_catalog(rng))
    span_us = pick(rng, (1, 10, 60, 240)) * SECOND_US
    begin_ms = pick(rng, BOUNDARIES_MS) - between(rng, 0, 2 * span_us // 1_000)
    jumps = []
    if maybe(rng, 20):
        by_ms = pick(rng, (400, 5_000, 70_000, 3_700_000, 90_000_000))
        jumps.append(Jump(between(rng, 0, span_us), by_ms))
    arrivals = draw_arrivals(rng, catalog, begin_ms, tasks, span_us)
    arrivals = stepping(seed, patient(seed, wishing(seed, arrivals)))
    characters = {name: _character(rng) for name in PROVIDERS}
    phases = [_phase(rng, span_us) for _ in range(between(rng, 0, 3))]
    spells = [_spell(rng, span_us)] if maybe(rng, 30) else []
    return World(
        seed, kind, catalog, begin_ms, tuple(jumps), tuple(arrivals),
        Providers(seed, characters, phases), StoreWeather(seed, spells),
    )  # fmt: skip


def _character(rng: Random) -> Character:
    latency_us = pick(rng, (20_000, 300_000, 1_500_000, 8_000_000))
    if maybe(rng, 30):
        return Character(latency_us, 2, 1, 3)
    return Character(latency_us, rng.random() * 60, rng.random() * 25, rng.random() * 20)


def _phase(rng: Random, span_us: int) -> Phase:
    from_us = between(rng, 0, span_us)
    to_us = from_us + between(rng, SECOND_US, 60 * SECOND_US)
    return Phase(pick(rng, PROVIDERS), from_us, to_us, pick(rng, tuple(Ill)))


def _spell(rng: Random, span_us: int) -> Spell:
    from_us = between(rng, 0, span_us)
    to_us = from_us + between(rng, SECOND_US // 2, 20 * SECOND_US)
    return Spell(from_us, to_us, pick(rng, tuple(Trouble)))


# ---------------------------------------------------------------- one thing wrong, all else well


def outage(seed: int, rng: Random, kind: Kind) -> World:
    """Make a world with room enough, in which providers go down at one instant and heal later."""
    names = PROVIDERS[: between(rng, 2, 3)]
    catalog = _roomy(rng, names)
    begin_ms = pick(rng, BOUNDARIES_MS)
    from_us, lasts_us = 10 * SECOND_US, between(rng, 20, 120) * SECOND_US
    to_us = from_us + lasts_us
    ill = pick(rng, (Ill.REFUSES, Ill.REFUSES, Ill.BREAKS, Ill.SILENT, Ill.OVERLOADED))
    down = names if kind is Kind.BLACKOUT else names[:1]  # the one that is asked first
    phases = [Phase(name, from_us, to_us, ill) for name in down]
    every_us = between(rng, 250_000, 400_000)
    arrivals: list[Arrival] = []
    at_us = 0
    while at_us < to_us + HEALED_US + 20 * SECOND_US:
        request = _plain(rng, len(arrivals) + 1, begin_ms + at_us // 1_000)
        arrivals.append(Arrival(at_us, request))
        # In a blackout nothing can be learnt from many: one now and then keeps the probes going.
        slow = 4 if kind is Kind.BLACKOUT and from_us < at_us < to_us else 1
        at_us += every_us * slow + between(rng, 0, 50_000)
    characters = dict.fromkeys(names, HEALTHY)
    return World(
        seed, kind, catalog, begin_ms, (), tuple(arrivals),
        Providers(seed, characters, phases), StoreWeather(seed), phases[0],
    )  # fmt: skip


def _roomy(rng: Random, names: tuple[str, ...]) -> Catalog:
    """Two layers in which every provider has a model, and nothing is limited."""
    layers, position = [], 0
    for index, billing in enumerate((Billing.FREE, Billing.METERED)):
        models = []
        for provider in names:
            name = f"layer{index}"
            none: frozenset[str] = frozenset()
            model = Model(
                provider, "default", f"m{position}", "m", "openai", name, index, position, none,
                (), Price(1, 1), billing,
            )  # fmt: skip
            models.append(model)
            position += 1
        layers.append(Layer(f"layer{index}", index, index + 1, tuple(models)))
    rules = Rules(on_outage=pick(rng, (OnOutage.SKIP, OnOutage.NEXT_LAYER)), first_token_ms=2_000)
    return Catalog(tuple(layers), Scoring(), rules, TYPES, {}, OTHER)


def _plain(rng: Random, number: int, now_ms: int) -> Request:
    return Request(
        id=f"r{number}",
        task=Task("whatever", 0, 0),
        messages=MESSAGES[20],
        output_tokens_max=100,
        on_interruption=OnInterruption.RESTART,
        delivery=pick(rng, (Delivery.STREAM, Delivery.WHOLE)),
        deadline_ms=now_ms + 60_000,
    )
