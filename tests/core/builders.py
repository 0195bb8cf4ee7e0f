"""Small catalogs and requests for tests, built in code; nothing here is a fixture."""

from dataclasses import replace

from escalade_server.core.catalog import (
    Billing,
    Catalog,
    Counter,
    CounterScope,
    Layer,
    Model,
    Period,
    Scoring,
    TaskType,
    Unit,
)
from escalade_server.core.money import Price
from escalade_server.core.rules import Rules
from escalade_server.core.task import Constraints, Message, Request, Role, Task, Text
from escalade_server.core.triggers import Trigger

T0 = 1_790_000_000_000
DAY = T0 + 3_600_000
PRICE = Price(input_picos=150_000, output_picos=600_000)
TYPES = {
    "parse": TaskType("parse", 1, frozenset({"parsing"})),
    "debug": TaskType("debug", 7, frozenset({"debugging"})),
    "architecture": TaskType("architecture", 9, frozenset({"architecture"})),
}
OTHER = TaskType("other", 5, frozenset())


def per_day(provider: str, model: str, limit: int) -> Counter:
    """Limit requests of a model to ``limit`` a day."""
    key = f"requests/day:{provider}/default/{model}"
    return Counter(key, Unit.REQUESTS, Period.DAY, limit, CounterScope.MODEL, f"{limit}/day")


def cap(scope: str, nanos: int) -> Counter:
    """Cap the money of ``scope`` in a month."""
    key = f"nanos/month:{scope}"
    return Counter(key, Unit.NANOS, Period.MONTH, nanos, CounterScope.LAYER, f"{scope} cap")


def model(
    name: str,
    *,
    capabilities: tuple[str, ...] = (),
    counters: tuple[Counter, ...] = (),
    billing: Billing = Billing.FREE,
    context_tokens: int | None = None,
) -> Model:
    """Make a model from ``provider/id``; ``layers`` puts it in its place."""
    provider, _, identity = name.partition("/")
    return Model(
        provider, "default", identity, identity, "openai", "", 0, 0, frozenset(capabilities),
        counters, PRICE, billing, context_tokens=context_tokens,
    )  # fmt: skip


def layers(*named: tuple[str, tuple[Model, ...], tuple[Trigger, ...]]) -> tuple[Layer, ...]:
    """Number layers and their models in order."""
    made, position = [], 0
    for index, (name, models, triggers) in enumerate(named):
        placed = []
        for each in models:
            placed.append(replace(each, layer=name, layer_index=index, position=position))
            position += 1
        made.append(Layer(name, index, index + 1, tuple(placed), triggers))
    return tuple(made)


def catalog(
    *named: tuple[str, tuple[Model, ...], tuple[Trigger, ...]],
    rules: Rules | None = None,
    scoring: Scoring | None = None,
) -> Catalog:
    """Make a catalog of layers; the baseline is the first model of the last layer."""
    made = layers(*named)
    scoring = scoring or Scoring(threshold_micro=8_000_000)
    return Catalog(
        made, scoring, rules or Rules(), TYPES, {"parsing": "parse"}, OTHER,
        baseline=made[-1].models[0],
    )  # fmt: skip


def three_layers(rules: Rules | None = None, *, limit: int = 50) -> Catalog:
    """Two free models, two subscriptions under caps, one premium model."""
    return catalog(
        (
            "free",
            (
                model("openai/mini", capabilities=("parsing",),
                      counters=(per_day("openai", "mini", limit),)),
                model("google/flash", capabilities=("parsing",),
                      counters=(per_day("google", "flash", limit),)),
            ),
            (),
        ),
        (
            "budget",
            (
                model("nano-gpt/glm", capabilities=("debugging",), billing=Billing.SUBSCRIPTION,
                      counters=(cap("glm", 8_000_000_000),)),
                model("minimax/m2", billing=Billing.SUBSCRIPTION,
                      counters=(cap("m2", 10_000_000_000),)),
            ),
            (),
        ),
        (
            "premium",
            (
                model("openai/gpt", capabilities=("architecture",), billing=Billing.METERED,
                      counters=(cap("premium", 5_000_000_000),)),
            ),
            (),
        ),
        rules=rules,
    )  # fmt: skip


def request(
    text: str = "Hello there.",
    *,
    task: Task | None = None,
    constraints: Constraints | None = None,
    deadline_ms: int = T0 + 60_000,
) -> Request:
    """Make a request of one user message, due in a minute."""
    return Request(
        id="r1",
        task=task or Task(type="parse", files=0, tokens=0),
        messages=(Message(Role.USER, (Text(text),)),),
        constraints=constraints or Constraints(),
        deadline_ms=deadline_ms,
    )
