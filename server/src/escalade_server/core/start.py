"""Where a task starts: by what its type needs, by its score, within its caller's limits."""

from escalade_server.core import complexity
from escalade_server.core.catalog import Catalog, Layer, Model, TaskType
from escalade_server.core.need import Need
from escalade_server.core.policy import limits
from escalade_server.core.rules import OnComplexity
from escalade_server.core.session import Step, Turn, begin
from escalade_server.core.standing import Cause
from escalade_server.core.trace import Clamp
from escalade_server.core.triggers import Comparison, ComplexityTrigger

_JUMPS, _IGNORE = (Comparison.GT, Comparison.GE), OnComplexity.IGNORE


def jump_target(catalog: Catalog, units: int) -> int:
    """Index of the layer that the score alone sends a task to; 0 if not above (R3, R4)."""
    if catalog.rules.on_complexity is _IGNORE:
        return 0
    named = False
    for layer in reversed(catalog.layers):
        for trigger in layer.triggers:
            if isinstance(trigger, ComplexityTrigger) and trigger.comparison in _JUMPS:
                if complexity.holds(trigger, units):
                    return layer.index
                named = True
    if named:
        return 0
    threshold = catalog.scoring.threshold_micro
    if threshold is not None and units > threshold * complexity.UNITS_PER_MICRO:
        return len(catalog.layers) - 1
    return 0


def capability_start(catalog: Catalog, need: Need, kind: TaskType) -> int:
    """Index of the first layer in which a model declares what the task needs (R1)."""
    last = len(catalog.layers) - 1
    pinned = kind.start
    if pinned is not None:
        return last if pinned < 0 else min(pinned - 1, last)
    if need.capabilities:
        for index, ranked in enumerate(need.ranks):
            if ranked and need.matches(ranked[0]):  # the first, if any of its layer does
                return index
    return 0


def admits(layer: Layer, need: Need) -> bool:
    """Tell whether the caller's limits let any model of a layer be used at all."""
    if not need.restricted and not layer.consent_required:
        return True
    return any(limits(model, layer, need) is None for model in layer.models)


def start(
    catalog: Catalog, need: Need, kind: TaskType, units: int
) -> tuple[int, int, Clamp | None]:
    """Say where a task starts: index of the start, of the score's target, and what clamped it."""
    target, begin = jump_target(catalog, units), capability_start(catalog, need, kind)
    if target and catalog.rules.on_complexity is OnComplexity.NEXT_LAYER:
        target = min(begin + 1, len(catalog.layers) - 1)
    wanted, clamped = max(target, begin), None
    if wanted < need.lowest:
        wanted, clamped = need.lowest, Clamp.LOWEST_LAYER
    elif wanted > need.highest:
        wanted, clamped = need.highest, Clamp.HIGHEST_LAYER
    if admits(catalog.layers[wanted], need):
        return wanted, target, clamped
    down = range(wanted - 1, -1, -1)
    index = next((i for i in down if admits(catalog.layers[i], need)), wanted)
    if index != wanted:
        clamped = _clamp_of(catalog.layers[index + 1], need)
    return index, target, clamped


def step_up(
    catalog: Catalog, need: Need, base: int, step: Step
) -> tuple[int, Turn, tuple[tuple[Model, ...], ...]]:
    """Say what a session makes of a task's start, and of the order of its models (R29).

    It starts higher while the session struggles, in layers that its caller's limits open to it;
    and the model that answered last comes first in its own layer, for the sake of prompt caches.
    """
    layers, ranks = catalog.layers, need.ranks
    above = range(base + 1, min(need.highest, len(layers) - 1) + 1)
    open_to = [base, *(index for index in above if admits(layers[index], need))]
    turn = begin(step, len(open_to) - 1)
    known = step.before.model if step.sticky else ""
    if known:
        ranks = tuple([tuple(sorted(row, key=lambda model: model.key != known)) for row in ranks])
    return open_to[turn.raised], turn, ranks


def _clamp_of(layer: Layer, need: Need) -> Clamp:
    """Name the limit that shuts a whole layer."""
    causes = {v.cause for m in layer.models if (v := limits(m, layer, need)) is not None}
    if Cause.FREE_ONLY in causes:
        return Clamp.FREE_ONLY
    if Cause.CONSENT in causes:
        return Clamp.CONSENT
    return Clamp.DATA if Cause.DATA_POLICY in causes else Clamp.HIGHEST_LAYER
