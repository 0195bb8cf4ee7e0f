"""What one request needs of any model: its bounds, features and limits. Computed once."""

from typing import NamedTuple

from escalade_server.core import complexity
from escalade_server.core.catalog import Agent, Catalog, Counter, Model, TaskType, Unit
from escalade_server.core.commands import Candidate
from escalade_server.core.money import worst_cost_nanos
from escalade_server.core.task import (
    Constraints,
    DataDemand,
    Delivery,
    Feature,
    FormatKind,
    Request,
)

MESSAGE_TOKENS = 16
"""Envelope tokens per message, tool or schema on top of their bytes (quotas C2)."""
IMAGE_TOKENS_BOUND = 50_000
"""The dearest image known: gpt-4o-mini counts up to 48,169 tokens for one (OpenAI, vision)."""
OUTPUT_TOKENS_FIRST = 512
"""Estimated output before a model has a running mean (R13)."""
INPUT_TOKENS_UNSTATED = 4_096
"""Granted to a caller that calls the model itself and states nothing of its input (R32)."""


NO_LIMITS = Constraints()
_ANY, _NOBODY = DataDemand.NONE, Agent("")


class Need(NamedTuple):
    """``input_bound`` can never be exceeded by the provider's count; ``input_estimate`` can."""

    input_bound: int
    input_estimate: int
    output_bound: int
    features: frozenset[Feature]
    allowed: frozenset[str]
    denied: frozenset[str]
    consented: frozenset[str]
    free_only: bool
    data_demand: DataDemand
    spend_limit_nanos: int | None
    lowest: int
    highest: int
    capabilities: frozenset[str]
    all_of: bool
    """The caller stated the capabilities: all of them; else any one suffices (R2)."""
    restricted: bool
    """The caller set any limit at all; spares the look at each for the many that do not."""
    extra: tuple[Counter, ...] = ()
    """Counters of the caller's agent for a call of a paid model."""
    extra_free: tuple[Counter, ...] = ()
    """And of a free one, whose worth counts against no cap of money (R15)."""
    agent: str = ""

    def candidate(self, model: Model, output_mean: int | None) -> Candidate:
        """Bound one call of a model: what it may hold at most (C2, R13)."""
        output = self.output_bound
        if model.output_tokens_max is not None and model.output_tokens_max < output:
            output = model.output_tokens_max
        likely = OUTPUT_TOKENS_FIRST if output_mean is None else 2 * output_mean
        return Candidate(
            model,
            self.input_estimate * 5 // 4 + 64 + min(likely, output),
            worst_cost_nanos(self.input_bound, output + model.reasoning_bound_tokens, model.price),
            output,
            self.extra if model.is_paid else self.extra_free,
        )

    def matches(self, model: Model) -> bool:
        """Tell whether a model declares what the task needs (R1, R2)."""
        if not self.capabilities:
            return True
        if self.all_of:
            return self.capabilities <= model.capabilities
        return not self.capabilities.isdisjoint(model.capabilities)


def layer_index(catalog: Catalog, name: str, default: int) -> int:
    """Index of a layer by name; ``default`` for an empty name. The edge refuses unknown ones."""
    if not name:
        return default
    return next((layer.index for layer in catalog.layers if layer.name == name), default)


def _features(request: Request, image_count: int) -> frozenset[Feature]:
    if not request.tools and not image_count and request.response_format.kind is FormatKind.TEXT:
        return request.features
    needed = []
    if request.tools:
        needed.append(Feature.TOOLS)
    if image_count:
        needed.append(Feature.IMAGES)
    if request.response_format.kind is FormatKind.JSON_SCHEMA:
        needed.append(Feature.JSON_SCHEMA)
    return request.features.union(needed)


def _stated_input(request: Request) -> int | None:
    """Tokens of an input that is stated instead of given; None where messages are measured."""
    if request.input_tokens is not None:
        return request.input_tokens
    if request.messages:
        return None
    if request.delivery is Delivery.ROUTE:
        return request.task.tokens or INPUT_TOKENS_UNSTATED
    return request.task.tokens


def need_of(request: Request, catalog: Catalog, task_type: TaskType, text_bytes: int) -> Need:
    """Work out what a request needs."""
    limits, task = request.constraints, request.task
    own = catalog.agents.get(request.agent, _NOBODY).counters
    image_count = complexity.images(request)
    envelope = MESSAGE_TOKENS * (len(request.messages) + len(request.tools) + 1)
    image_tokens = IMAGE_TOKENS_BOUND * image_count
    aliases = catalog.capability_aliases
    words = task.capabilities
    stated = frozenset([aliases.get(c, c) for c in words]) if words else None
    estimate = text_bytes // complexity.BYTES_PER_TOKEN + envelope // 4 + image_tokens // 32
    bound, given = text_bytes + envelope + image_tokens, _stated_input(request)
    return Need(
        input_bound=bound if given is None else given,
        input_estimate=estimate if given is None else given,
        output_bound=request.output_tokens_max or catalog.rules.output_tokens_default,
        features=_features(request, image_count),
        allowed=frozenset(limits.allowed_models),
        denied=frozenset(limits.denied_models),
        consented=frozenset(limits.consented_layers),
        free_only=limits.free_only or limits.spend_limit_nanos == 0,
        data_demand=task.data_demand,
        spend_limit_nanos=limits.spend_limit_nanos,
        lowest=layer_index(catalog, limits.lowest_layer, 0),
        highest=layer_index(catalog, limits.highest_layer, len(catalog.layers) - 1),
        capabilities=stated or task_type.needs,
        all_of=bool(stated),
        agent=request.agent,
        restricted=(limits is not NO_LIMITS and limits != NO_LIMITS)
        or task.data_demand is not _ANY,
        extra=own,
        extra_free=tuple([c for c in own if c.unit is not Unit.NANOS]) if own else own,
    )
