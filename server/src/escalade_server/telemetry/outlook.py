"""How things are, looked at when metrics are asked for: quotas, layers, cooldowns, circuits.

It is looked at on the event loop, whose state it is. A loop that is stuck has nothing new to say,
and the metrics must be read all the same: then what was seen last is shown.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from escalade_server.core.catalog import Catalog
from escalade_server.core.failure import NEVER_MS
from escalade_server.core.nominal import nominal_view
from escalade_server.core.policy import judge
from escalade_server.core.standing import Standing, plain_key
from escalade_server.engine.ports import Clock, Spend
from escalade_server.telemetry import catalogue
from escalade_server.telemetry.instruments import Sampled, Take

WAIT_S = 0.5
OPERATOR = "operator"


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

    def spends(self) -> tuple[Spend, ...]:
        """Every counter's use."""
        ...


def state_of(watched: Watched) -> dict[str, Sampled]:
    """Look at the state that tasks are decided by."""
    catalog, standing = watched.catalog, watched.standing()
    now_ms = watched.clock.now_ms()
    used, resets = _quotas(watched.spends())
    return {
        catalogue.QUOTA_USED.name: used,
        catalogue.QUOTA_RESETS.name: resets,
        catalogue.LAYER_MODELS.name: _layers(catalog, standing, now_ms),
        catalogue.COOLDOWNS.name: {
            (plain_key(key), bench.cls.value if key == plain_key(key) else OPERATOR): (
                math.inf if bench.until_ms >= NEVER_MS else bench.until_ms
            )
            for key, bench in standing.benches.items()
            if bench.until_ms > now_ms and " of agent " not in key
        },
        catalogue.CIRCUITS.name: {
            (key, circuit.state.value): 1 for key, circuit in standing.circuits.items()
        },
    }


def _quotas(spends: Iterable[Spend]) -> tuple[Sampled, Sampled]:
    used, resets = dict[tuple[str, ...], float](), dict[tuple[str, ...], float]()
    for spend in spends:
        counter = spend.counter
        of = counter.key, counter.scope.value, counter.unit.value, counter.period.value
        for state, units in (("spent", spend.spent), ("held", spend.held)):
            used[*of, state] = units / counter.limit if counter.limit else 1.0
        resets[counter.key,] = spend.ends_ms
    return used, resets


def _layers(catalog: Catalog, standing: Standing, now_ms: int) -> Sampled:
    view = nominal_view(catalog, standing, now_ms)
    found = dict[tuple[str, ...], float]()
    for layer in catalog.layers:
        found[layer.name, "ok"] = 0
        for model in layer.models:
            verdict = judge(model, layer, view)[0].cls.value
            found[layer.name, verdict] = found.get((layer.name, verdict), 0) + 1
    return found


def on_loop(loop: asyncio.AbstractEventLoop, look: Take, wait_s: float = WAIT_S) -> Take:
    """Let any thread look at what belongs to an event loop; see the top of the file."""
    seen: Mapping[str, Sampled] = {}

    def take() -> Mapping[str, Sampled]:
        nonlocal seen
        found: Future[Mapping[str, Sampled]] = Future()
        with suppress(TimeoutError, RuntimeError):  # stuck, or closed
            loop.call_soon_threadsafe(_into(found, look))
            seen = found.result(wait_s)
        return seen

    return take


def _into(found: "Future[Mapping[str, Sampled]]", look: Take) -> Callable[[], None]:
    def call() -> None:
        if not found.set_running_or_notify_cancel():
            return
        try:
            found.set_result(look())
        except Exception as error:  # noqa: BLE001 - who asked is told
            found.set_exception(error)

    return call
