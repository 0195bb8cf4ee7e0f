"""Looks at shared state once a second, and tells the feed what has changed since the last look.

Told are layers that have no model left, and that they are back; cooldowns and circuits. Whether a
layer is exhausted is judged by the nominal task, so that one giant task raises no alarm (R5). What
lasts less than a look is told nowhere but with the task that met it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from escalade_server.core import words
from escalade_server.core.catalog import Catalog, Layer, Model
from escalade_server.core.facts import AlertKind
from escalade_server.core.failure import DAY_MS, HOUR_MS, NEVER_MS, FailureClass
from escalade_server.core.nominal import nominal_view
from escalade_server.core.policy import judge
from escalade_server.core.standing import (
    Bench,
    CircuitState,
    Standing,
    Verdict,
    VerdictClass,
    plain_key,
)
from escalade_server.engine.news import AlertNews, ModelNews, News, Once, Place, place_of
from escalade_server.engine.ports import Clock

LOOK_S = 1.0
STEADY_MS = 5_000
"""How long a layer is well before it is called back: one that flickers is told once."""
_RATE = frozenset({FailureClass.RATE_SHORT, FailureClass.QUOTA_WINDOW})


class Watched(Protocol):
    """What is looked at; the engine is."""

    @property
    def catalog(self) -> Catalog:
        """The strategy in force."""
        ...

    @property
    def clock(self) -> Clock:
        """The service's own time."""
        ...

    def standing(self) -> Standing:
        """Shared state and circuits at this instant."""
        ...


class Told(Protocol):
    """Who is told; the feed is, or who passes it on."""

    def publish(self, news: News, *, agent: str = "", once: Once | None = None) -> None:
        """Take news."""
        ...


@dataclass(slots=True)
class _Out:
    """A layer that was told to be exhausted; ``well_since_ms`` while it is well again."""

    cause: VerdictClass
    until_ms: int
    well_since_ms: int | None = None


class Lookout:
    """Owned by one event loop."""

    def __init__(self, watched: Watched, feed: Told) -> None:
        """Take what is watched, and where news go."""
        self._watched, self._feed = watched, feed
        self._out: dict[str, _Out] = {}
        self._benches: dict[str, Bench] = {}
        self._circuits: dict[str, CircuitState] = {}

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Look once."""
        catalog, standing = self._watched.catalog, self._watched.standing()
        now_ms = self._watched.clock.now_ms()
        view = nominal_view(catalog, standing, now_ms)
        for layer in catalog.layers:
            verdicts = [judge(model, layer, view)[0] for model in layer.models]
            self._look_at(layer, verdicts, now_ms)
        for gone in self._out.keys() - {layer.name for layer in catalog.layers}:
            del self._out[gone]
        self._look_at_benches(catalog, standing, now_ms)
        self._look_at_circuits(catalog, standing)

    # ------------------------------------------------------------------------------- layers

    def _look_at(self, layer: Layer, verdicts: Sequence[Verdict], now_ms: int) -> None:
        out, classes = self._out.get(layer.name), {verdict.cls for verdict in verdicts}
        if VerdictClass.OK in classes:
            if out is not None:
                self._is_well(layer, out, now_ms)
        elif VerdictClass.HELD in classes or all(model.absence for model in layer.models):
            return  # the one passes with the next settlement, the other is told at the start
        elif out is None:
            self._is_out(layer, verdicts, now_ms)
        else:
            out.well_since_ms = None

    def _is_out(self, layer: Layer, verdicts: Sequence[Verdict], now_ms: int) -> None:
        first = next(
            verdict
            for model, verdict in zip(layer.models, verdicts, strict=True)
            if not model.absence
        )
        known = [v.until_ms for v in verdicts if v.until_ms is not None and v.until_ms < NEVER_MS]
        until_ms = max(min(known, default=now_ms + DAY_MS), now_ms + HOUR_MS)
        self._out[layer.name] = _Out(first.cls, until_ms)
        why = "; ".join(
            f"{words.name(model)}: {verdict.detail or verdict.cause.value}"
            for model, verdict in zip(layer.models, verdicts, strict=True)
        )
        detail = f"no model of {layer.name} can be used: {why}"
        self._feed.publish(
            AlertNews(AlertKind.EXHAUSTED, detail, Place(layer.name)),
            once=Once(f"exhausted {first.cls.value} {layer.name}", until_ms),
        )

    def _is_well(self, layer: Layer, out: _Out, now_ms: int) -> None:
        if out.well_since_ms is None:
            out.well_since_ms = now_ms
        if now_ms - out.well_since_ms < STEADY_MS:
            return
        del self._out[layer.name]
        self._feed.publish(
            AlertNews(AlertKind.RECOVERED, f"{layer.name} can be used again", Place(layer.name)),
            once=Once(
                f"recovered {out.cause.value} {layer.name}", max(out.until_ms, now_ms + HOUR_MS)
            ),
        )

    # --------------------------------------------------------------------- cooldowns, circuits

    def _look_at_benches(self, catalog: Catalog, standing: Standing, now_ms: int) -> None:
        benches = {k: bench for k, bench in standing.benches.items() if bench.until_ms > now_ms}
        for key, bench in benches.items():
            if key != plain_key(key):
                continue  # told by whoever did it, with all that is to be said (engine.controls)
            if key not in self._benches or self._benches[key].cls is not bench.cls:
                place, scope, agent = _where(catalog, key)
                cls = VerdictClass.RATE if bench.cls in _RATE else VerdictClass.DOWN
                self._feed.publish(
                    ModelNews(place, cls, "cooldown", bench.detail, bench.until_ms, scope),
                    agent=agent,
                    once=Once(f"cooldown {bench.until_ms} {key}", bench.until_ms),
                )
        for key in self._benches.keys() - benches.keys():
            until_ms = self._benches[key].until_ms
            place, scope, agent = _where(catalog, plain_key(key))
            what = f"the cooldown of the {scope} is over"
            if key != plain_key(key):
                if until_ms > now_ms:
                    continue  # an operator took it in again, and that was told
                what = f"the {scope} is no longer set aside: the time that an operator set is over"
            self._feed.publish(
                ModelNews(place, VerdictClass.OK, "", what),
                agent=agent,
                once=Once(f"over {until_ms} {key}", now_ms + HOUR_MS),
            )
        self._benches = benches

    def _look_at_circuits(self, catalog: Catalog, standing: Standing) -> None:
        circuits = {key: circuit.state for key, circuit in standing.circuits.items()}
        for key in circuits.keys() | self._circuits.keys():
            state = circuits.get(key, CircuitState.CLOSED)
            if state is self._circuits.get(key, CircuitState.CLOSED):
                continue
            place, scope, _ = _where(catalog, key)
            news = ModelNews(
                place,
                VerdictClass.OK,
                "",
                f"the circuit of the {scope} is {state.value.replace('_', '-')}",
                circuit=state,
            )
            if state is CircuitState.OPEN:
                until_ms = standing.circuits[key].until_ms
                news = replace(
                    news, verdict=VerdictClass.DOWN, reason="circuit_open", until_ms=until_ms
                )
            self._feed.publish(news)
        self._circuits = circuits


def _where(catalog: Catalog, key: str) -> tuple[Place, str, str]:
    """Read the key of a bench or circuit: what it sets aside, of which scope, for which agent."""
    key, _, agent = key.partition(" of agent ")
    model: Model | None = next((model for model in catalog.models if model.key == key), None)
    if model is not None:
        return place_of(model), "model", agent
    provider, _, rest = key.partition("/")
    account, _, name = rest.partition("/")
    scope = "model" if name else "account" if account else "provider"
    return Place("", provider, account, name), scope, agent
