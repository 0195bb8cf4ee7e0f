"""Short words for strategies and for providers that fail, for tests that tell a story."""

from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from tests.faults.served import KEY, PRICE

PRICED = "price: {input: 1, output: 2}"
PAID = ModelScript(price=PRICE)


def strategy(
    *layers: str, rules: str = "", providers: tuple[str, ...] = ("openai", "deepseek")
) -> str:
    """Write a strategy: a layer is `name [key: value, ...] | model | model`."""
    lines = ["fallback_strategy:", "  layers:"]
    for at, layer in enumerate(layers):
        name, *models = (part.strip() for part in layer.split("|"))
        name, _, keys = name.partition(" ")
        lines += [f"    - name: {name}", f"      priority: {at + 1}"]
        lines += [f"      {key}" for key in keys.split("; ") if key]
        lines += ["      models:", *(f"        - {{{model}}}" for model in models)]
    lines += [f"  {line}" for line in rules.splitlines()] + ["providers:"]
    for name in providers:
        lines.append(f"  {name}: {{base_url: <{name}>, api_key_env: {KEY}}}")
    return "\n".join(lines) + "\n"


def openai(name: str, more: str = "") -> str:
    return f"provider: openai, model: {name}{more and ', ' + more}"


def deepseek(name: str, more: str = PRICED) -> str:
    return f"provider: deepseek, model: {name}, {more}"


def failing(kind: FaultKind, *on: int, wait_ms: int | None = None) -> ModelScript:
    return ModelScript(faults=(Fault(kind=kind, on_requests=on, retry_after_ms=wait_ms),))


FREE, CAPPED = "free cost_per_month: 0", "paid monthly_cap: $5"
