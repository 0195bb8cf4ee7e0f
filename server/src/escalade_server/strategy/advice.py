"""Advice on a file that loads: what can be seen without a simulation (DESIGN 3, R36)."""

import re
from collections.abc import Iterator

from escalade_server.core.catalog import Billing, Catalog, Model, Unit
from escalade_server.core.money import worst_cost_nanos
from escalade_server.core.rules import OnComplexity, OnRateLimit
from escalade_server.core.triggers import Comparison, ComplexityTrigger, Condition, LayerTrigger
from escalade_server.core.words import usd
from escalade_server.strategy.errors import Level, Notice, did_you_mean
from escalade_server.strategy.resolve import is_jump
from escalade_server.strategy.vendors import FREE_TIERS, RETIRED
from escalade_server.strategy.vocabulary import known_words

SCORE_MAX_MICRO = 10_000_000

Lines = dict[str, int]
"""Where each model (by key) and each layer (by name) stands in the file."""


def advise(catalog: Catalog, lines: Lines) -> list[Notice]:
    """Give all advice that needs nothing but the file, in the order of the file."""
    found = [
        *retired(catalog, lines),
        *no_way_up(catalog, lines),
        *paid_first(catalog, lines),
        *one_provider(catalog, lines),
        *never_fits(catalog, lines),
        *free_but_priced(catalog, lines),
        *unlimited_blocks(catalog, lines),
        *unknown_words(catalog, lines),
    ]
    return sorted(found, key=lambda notice: notice.line)


def advice(code: str, line: int, sentence: str, mend: str) -> Notice:
    """Make one piece of advice."""
    return Notice(Level.ADVICE, code, line, sentence, mend)


def name_of(model: Model) -> str:
    """Name a model as people do."""
    return f"{model.provider}/{model.id}"


def retired(catalog: Catalog, lines: Lines) -> Iterator[Notice]:
    """Report models that their vendors have switched off, with the successor (R34)."""
    for model in catalog.models:
        entry = RETIRED.get((model.provider, model.wire_id))
        if entry is not None:
            sentence = (
                f"{name_of(model)} was retired by its vendor on {entry.since} "
                f"({entry.source}): calls will fail, and the task goes on to the next model."
            )
            mend = f"Write `model: {entry.successor}`; its price differs."
            yield Notice(Level.WARNING, "RETIRED_MODEL", lines[model.key], sentence, mend)


def no_way_up(catalog: Catalog, lines: Lines) -> Iterator[Notice]:
    """Report a strategy that cannot escalate, and layers that nothing leads to."""
    if len(catalog.layers) == 1:
        layer = catalog.layers[0]
        sentence = "there is one layer only: when it is out, every task fails."
        yield advice("NO_WAY_UP", lines[layer.name], sentence, "Add a second layer.")
    indexes = {layer.name: layer.index for layer in catalog.layers}
    for layer in catalog.layers[1:]:
        ways = [
            indexes[trigger.layer] < layer.index
            if isinstance(trigger, LayerTrigger)
            else can_fire(trigger, catalog)
            for trigger in layer.triggers
        ]
        if ways and not any(ways):
            sentence = (
                f"no trigger of {layer.name} can ever fire: none names a layer before it, or a"
                " score that a task can have."
            )
            mend = f"Write `trigger: {catalog.layers[layer.index - 1].name}.exhausted`."
            yield advice("NEVER_ENTERED", layer.triggers[0].line, sentence, mend)
    if catalog.rules.on_rate_limit is OnRateLimit.NEXT_MODEL and len(catalog.layers) > 1:
        sentence = "rate_limit_hit: next_model keeps a rate-limited task in its layer."
        yield advice("RATE_LIMIT_STAYS", 0, sentence, "Write `rate_limit_hit: next_layer`.")


def can_fire(trigger: ComplexityTrigger, catalog: Catalog) -> bool:
    """Tell whether a task can have such a score, and whether it is asked for one at all (R4)."""
    if not is_jump(trigger):
        return trigger.comparison is not Comparison.LT or trigger.value_micro > 0
    threshold = catalog.scoring.threshold_micro
    if threshold is not None and catalog.rules.on_complexity is OnComplexity.IGNORE:
        return False
    number = trigger.value_micro if threshold is None else threshold
    return trigger.comparison is not Comparison.GT or number < SCORE_MAX_MICRO


def never_fits(catalog: Catalog, lines: Lines) -> Iterator[Notice]:
    """Report limits that are smaller than one call: nothing passes them, or little (R14)."""
    tokens = catalog.rules.output_tokens_default
    for model in catalog.models:
        most = min(tokens, model.output_tokens_max or tokens) + model.reasoning_bound_tokens
        worst = worst_cost_nanos(0, most, model.price) if model.is_paid else 0
        for counter in model.counters:
            line, name, label = lines[model.key], name_of(model), counter.label
            if counter.unit is Unit.NANOS and counter.limit < worst:
                sentence = (
                    f"a call of {name} may cost {usd(worst)}, and {label} is {usd(counter.limit)}:"
                    " it is called for shorter answers only, if at all."
                )
                mend = "Raise the cap, or lower `output_tokens_default`."
                yield advice("NEVER_FITS", line, sentence, mend)
            elif counter.unit is not Unit.NANOS and not counter.limit:
                sentence = f"{name} is never called: {label} is 0."
                yield advice("NEVER_FITS", line, sentence, "Raise it, or take the model out.")


def paid_first(catalog: Catalog, lines: Lines) -> Iterator[Notice]:
    """Report models that cost money in the layer that every task begins with."""
    if len(catalog.layers) == 1:
        return
    for model in catalog.layers[0].models:
        if model.is_paid:
            sentence = f"{name_of(model)} costs money and stands in the first layer."
            mend = "Move it to a later layer, or say `billing: free` if it is."
            yield advice("PAID_FIRST", lines[model.key], sentence, mend)


def one_provider(catalog: Catalog, lines: Lines) -> Iterator[Notice]:
    """Report a strategy that dies with one provider."""
    providers = {model.provider for model in catalog.models}
    if len(providers) == 1:
        sentence = f"every model is served by {providers.pop()}: its outage stops everything."
        mend = "Add a model of another provider to at least one layer."
        yield advice("ONE_PROVIDER", lines[catalog.layers[0].name], sentence, mend)


def free_but_priced(catalog: Catalog, lines: Lines) -> Iterator[Notice]:
    """Report models taken as free whose vendor has no free tier that we know (R16)."""
    for model in catalog.models:
        pattern = FREE_TIERS.get(model.provider)
        known = pattern is not None and re.fullmatch(pattern, model.wire_id)
        if model.billing is Billing.FREE and not model.price.is_zero and not known:
            sentence = (
                f"{name_of(model)} counts as free here, but its vendor has a price for it: "
                "its list value is booked beside the 0."
            )
            mend = "If it is billed, say `billing: metered` and give it a cap."
            yield advice("FREE_BUT_PRICED", lines[model.key], sentence, mend)


def unlimited_blocks(catalog: Catalog, lines: Lines) -> Iterator[Notice]:
    """Report unlimited models that make a later layer's ``exhausted`` all but unreachable."""
    for layer in catalog.layers:
        waits = {
            trigger.layer
            for trigger in layer.triggers
            if isinstance(trigger, LayerTrigger)
            and trigger.condition is not Condition.BUDGET_EXHAUSTED
        }
        for model in (m for m in catalog.models if m.layer in waits):
            limited = any(c.unit is not Unit.NANOS or model.is_paid for c in model.counters)
            if not limited and model.billing is Billing.FREE:
                sentence = (
                    f"{name_of(model)} has no limit, so {model.layer} is exhausted only when it "
                    f"is down, and {layer.name} is reached by skill or complexity alone."
                )
                mend = "Give it a rate_limit if it has one."
                yield advice("UNLIMITED_MODEL", lines[model.key], sentence, mend)


def unknown_words(catalog: Catalog, lines: Lines) -> Iterator[Notice]:
    """Report capability words that no task type asks for (R2)."""
    known = known_words() | {word for kind in catalog.task_types.values() for word in kind.needs}
    for model in catalog.models:
        for word in sorted(model.capabilities - known):
            sentence = f'no task type asks for "{word}", so it never matches by type.'
            near = did_you_mean(word, known)
            mend = f"{near[:1].upper()}{near[1:]}" or "Name it in task_types or capability_aliases."
            yield advice("UNKNOWN_CAPABILITY", lines[model.key], sentence, mend)
