"""What one request needs of any model: its bounds, features and limits. Computed once."""

from dataclasses import replace

from escalade_server.core import complexity
from escalade_server.core.catalog import Agent, Catalog, Counter, Model, TaskType, Unit
from escalade_server.core.commands import Candidate
from escalade_server.core.money import worst_cost_nanos
from escalade_server.core.record import record
from escalade_server.core.task import (
    NO_LIMITS,
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
SLACK_TOKENS = 64
"""Reserved beside the estimate of a call (R13)."""
NOWHERE, EVERYWHERE = -1, -2
"""Places of ``Need.jumped_to`` that are no layer's."""

_FREE, _UNASKED, _TEXT = DataDemand.NONE, frozenset[str](), FormatKind.TEXT


@record
class Need:
    """``input_bound`` can never be exceeded by the provider's count; ``input_estimate`` can."""

    input_bound: int
    input_estimate: int
    output_bound: int
    features: frozenset[Feature]
    ranks: tuple[tuple[Model, ...], ...]
    """Each layer's models: those that declare what is needed, then the rest (R2)."""
    capabilities: frozenset[str]
    all_of: bool
    """The caller stated the capabilities: all of them; else any one suffices (R2)."""
    agent: str = ""
    extra: tuple[Counter, ...] = ()
    """Counters of the caller's agent for a call of a paid model."""
    extra_free: tuple[Counter, ...] = ()
    """And of a free one, whose worth counts against no cap of money (R15)."""
    slack_tokens: int = SLACK_TOKENS
    jumped_to: int = NOWHERE
    """Index of the layer whose reserved share is for this task (R11)."""

    restricted: bool = False
    """The caller set any limit at all; spares the look at each for the many that do not."""
    allowed: frozenset[str] = _UNASKED
    denied: frozenset[str] = _UNASKED
    consented: frozenset[str] = _UNASKED
    free_only: bool = False
    data_demand: DataDemand = _FREE
    spend_limit_nanos: int | None = None
    lowest: int = 0
    highest: int = 1 << 30

    def candidate(self, model: Model, output_mean: int | None) -> Candidate:
        """Bound one call of a model: what it may hold at most (C2, R13)."""
        output, most = self.output_bound, model.output_tokens_max
        if most is not None and most < output:
            output = most
        likely = OUTPUT_TOKENS_FIRST if output_mean is None else 2 * output_mean
        bound = output + model.reasoning_bound_tokens
        return Candidate(
            model,
            self.input_estimate * 5 // 4 + self.slack_tokens + min(likely, output),
            worst_cost_nanos(self.input_bound, bound, model.price),
            output,
            self._extra(model),
        )

    def _extra(self, model: Model) -> tuple[Counter, ...]:
        extra = self.extra if model.is_paid else self.extra_free
        if model.ordinary and self.jumped_to not in (model.layer_index, EVERYWHERE):
            return extra + model.ordinary
        return extra

    def matches(self, model: Model) -> bool:
        """Tell whether a model declares what the task needs (R1, R2)."""
        return model.declares(self.capabilities, all_of=self.all_of)


def layer_index(catalog: Catalog, name: str, default: int) -> int:
    """Index of a layer by name; ``default`` for an empty name. The edge refuses unknown ones."""
    if not name:
        return default
    return next((layer.index for layer in catalog.layers if layer.name == name), default)


def _features(request: Request, image_count: int) -> frozenset[Feature]:
    if not request.tools and not image_count and request.response_format.kind is _TEXT:
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


def need_of(
    request: Request, catalog: Catalog, task_type: TaskType, text_bytes: int, images: int
) -> Need:
    """Work out what a request needs; its text has so many bytes."""
    task = request.task
    given = _stated_input(request)
    if given is not None:
        bound = estimate = given
    else:
        envelope = MESSAGE_TOKENS * (len(request.messages) + len(request.tools) + 1)
        image_tokens = IMAGE_TOKENS_BOUND * images
        bound = text_bytes + envelope + image_tokens
        estimate = text_bytes // complexity.BYTES_PER_TOKEN + envelope // 4 + image_tokens // 32
    wanted, stated = task_type.needs, bool(task.capabilities)
    if stated:
        aliases = catalog.capability_aliases
        wanted = frozenset([aliases.get(word, word) for word in task.capabilities])
    need = Need(
        bound,
        estimate,
        request.output_tokens_max or catalog.rules.output_tokens_default,
        _features(request, images),
        catalog.ranked(wanted, all_of=True) if stated else catalog.ranks[wanted],
        wanted,
        stated,
        request.agent,
    )
    limits, demand = request.constraints, task.data_demand
    if request.agent in catalog.agents:
        need = _of_agent(need, catalog.agents[request.agent])
    if demand is _FREE and (limits is NO_LIMITS or limits == NO_LIMITS):
        return need
    return replace(
        need,
        restricted=True,
        allowed=frozenset(limits.allowed_models),
        denied=frozenset(limits.denied_models),
        consented=frozenset(limits.consented_layers),
        free_only=limits.free_only or limits.spend_limit_nanos == 0,
        data_demand=demand,
        spend_limit_nanos=limits.spend_limit_nanos,
        lowest=layer_index(catalog, limits.lowest_layer, 0),
        highest=layer_index(catalog, limits.highest_layer, len(catalog.layers) - 1),
    )


def _of_agent(need: Need, agent: Agent) -> Need:
    """Add the agent's own counters."""
    own = agent.counters
    free = tuple([counter for counter in own if counter.unit is not Unit.NANOS])
    return replace(need, extra=own, extra_free=free)
