"""List prices and sizes of models, offline: the file's own, our overlay, genai-prices (R17).

The provider is pinned: a model is looked up at the provider that is called, nowhere else. What
varies by date or time of day counts at its dearest from today on, so that caps hold. Nothing here
ever asks the network.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from escalade_server.core.money import NANOS_PER_USD, Price
from escalade_server.core.task import Feature
from escalade_server.strategy import model as config
from escalade_server.strategy.parse import picos
from escalade_server.strategy.vendors import VENDORS
from escalade_server.strategy.yaml_nodes import Value, parse

if TYPE_CHECKING:
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, Provider

OVERLAY = Path(__file__).with_name("prices.yaml")
FREE = Price(0, 0, source="runs on one's own machine")


@dataclass(frozen=True, slots=True)
class Listing:
    """What is known of a model. ``is_guess`` means: not found, so the dearest of all (R17)."""

    price: Price
    context_tokens: int | None = None
    output_tokens_max: int | None = None
    features: frozenset[Feature] | None = None
    is_guess: bool = False


def listing(provider: str, wire_id: str, own: config.Price | None, today: date) -> Listing:
    """Find price and sizes of a model; never fails, at worst it answers the dearest price."""
    found = _known(provider, wire_id, today)
    if own is not None:
        known = found or Listing(FREE)
        return Listing(stated(own), known.context_tokens, known.output_tokens_max, known.features)
    return found or Listing(dearest(today), is_guess=True)


def _known(provider: str, wire_id: str, today: date) -> Listing | None:
    row = overlay().get((provider, wire_id))
    if row is not None:
        return row
    vendor = VENDORS.get(provider)
    if vendor is None:
        return None
    return Listing(FREE) if vendor.is_local else _packaged(vendor.price_id, wire_id, today)


def stated(own: config.Price) -> Price:
    """Convert a ``price:`` of the file."""
    return Price(
        picos(own.input),
        picos(own.output),
        None if own.cached is None else picos(own.cached),
        None if own.cache_write is None else picos(own.cache_write),
        int((own.per_request * NANOS_PER_USD).to_integral_value(ROUND_CEILING)),
        source="price in the strategy",
    )


@cache
def overlay() -> dict[tuple[str, str], Listing]:
    """Read the rows that this project states itself."""
    text = OVERLAY.read_text(encoding="utf-8")
    rows = parse(f"rows:\n{text}", OVERLAY.name, {}).root["rows"]
    assert isinstance(rows, list)
    return dict(_row(row) for row in rows if isinstance(row, dict))


def _row(row: dict[str, Value]) -> tuple[tuple[str, str], Listing]:
    def usd(name: str) -> int | None:
        value = row.get(name)
        return picos(Decimal(value)) if isinstance(value, int | Decimal) else None

    def size(name: str) -> int | None:
        value = row.get(name)
        return value if isinstance(value, int) else None

    features = row.get("features")
    price = Price(
        usd("input") or 0,
        usd("output") or 0,
        usd("cached"),
        usd("cache_write"),
        source=f"{row['source']} ({row['as_of']})",
    )
    known = frozenset(map(Feature, features)) if isinstance(features, list) else None
    listed = Listing(price, size("context"), size("output_max"), known)
    return (str(row["provider"]), str(row["model"])), listed


# ------------------------------------------------------------------------------- the package


def _providers() -> "list[Provider]":
    # Imported late: its tables cost most of a second, and the overlay often suffices.
    from genai_prices.data import providers  # noqa: PLC0415

    return providers


def _packaged(price_id: str, wire_id: str, today: date) -> Listing | None:
    pinned = [provider for provider in _providers() if provider.id == price_id]
    info = pinned[0].find_model(wire_id) if pinned else None
    if info is None:
        return None
    price = _dearest_of(_applicable(info, today))
    if price is None:
        if not wire_id.endswith(":free"):
            return None
        price = Price(0, 0, source="a free variant of its vendor")
    return Listing(price, context_tokens=info.context_window)


def _applicable(info: "ModelInfo", today: date) -> "Iterator[ModelPrice]":
    """List the prices of a model that hold today, at some hour, or from a later day on.

    The package takes the last condition that holds, so what stands before a condition that
    always holds from now on can never apply.
    """
    from genai_prices.types import ModelPrice, StartDateConstraint  # noqa: PLC0415

    if isinstance(info.prices, ModelPrice):
        yield info.prices
        return
    conditions: list[ConditionalPrice] = info.prices
    for condition in reversed(conditions):
        yield condition.prices
        constraint = condition.constraint
        if constraint is None:
            return
        if isinstance(constraint, StartDateConstraint) and constraint.start_date <= today:
            return


@dataclass(frozen=True, slots=True)
class _Rates:
    """Dollars per million tokens, below and above the tier."""

    base: Decimal
    tier: Decimal
    start: int | None


def _rates(value: object) -> _Rates | None:
    """Read one component of a price; several tiers count as the dearest from the first on."""
    from genai_prices.types import TieredPrices  # noqa: PLC0415

    if isinstance(value, TieredPrices):
        top = max(tier.price for tier in value.tiers) if value.tiers else value.base
        return _Rates(value.base, top, value.tiers[0].start if value.tiers else None)
    return _Rates(value, value, None) if isinstance(value, Decimal) else None


def _dearest_of(prices: "Iterable[ModelPrice]") -> Price | None:
    """Combine prices into one that is never below any of them; None if they say nothing of text."""
    names = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
    columns: dict[str, list[_Rates]] = {name: [] for name in names}
    starts: list[int] = []
    for price in prices:
        for name in names:
            rates = _rates(getattr(price, name))
            if name == "cache_write_mtok":
                hour = _rates(getattr(price, "cache_write_1h_mtok"))  # noqa: B009 - by registry
                rates = hour or rates
            if rates is not None:
                columns[name].append(rates)
                starts += [rates.start] if rates.start is not None else []
    if not columns["input_mtok"] or not columns["output_mtok"]:
        return None
    source = f"genai-prices {version('genai-prices')}"

    def worst(name: str, *, above: bool) -> int | None:
        rates = columns[name]
        return picos(max(r.tier if above else r.base for r in rates)) if rates else None

    def made(*, above: bool, tier: Price | None = None) -> Price:
        cached, written = (worst(name, above=above) for name in names[2:])
        return Price(
            worst("input_mtok", above=above) or 0,
            worst("output_mtok", above=above) or 0,
            cached,
            written,
            tier_tokens=min(starts) if tier else None,
            tier=tier,
            source=source,
        )

    return made(above=False, tier=made(above=True) if starts else None)


@cache
def dearest(today: date) -> Price:
    """Find the dearest input and the dearest output price of the whole package (R17)."""
    most_input, most_output = Decimal(0), Decimal(0)
    for provider in _providers():
        for info in provider.models:
            for price in _applicable(info, today):
                for name in ("input_mtok", "cache_write_mtok", "cache_write_1h_mtok"):
                    rates = _rates(getattr(price, name))
                    most_input = max(most_input, rates.tier if rates else Decimal(0))
                rates = _rates(price.output_mtok)
                most_output = max(most_output, rates.tier if rates else Decimal(0))
    source = f"the dearest price of genai-prices {version('genai-prices')}"
    return Price(picos(most_input), picos(most_output), source=source)
