"""Prices: the file, the overlay, the package at its dearest, the dearest of all (R17)."""

from datetime import date

import pytest

from escalade_server.core.money import Price
from escalade_server.strategy.errors import Level
from escalade_server.strategy.prices import dearest, listing, overlay
from escalade_server.strategy.vendors import VENDORS
from tests.strategy.strategies import TODAY, changed, loaded

PAIRS = [
    ("openai", "gpt-4o-mini", 150_000, 600_000),
    ("openai", "gpt-4o", 2_500_000, 10_000_000),
    ("google", "gemini-flash", 1_500_000, 7_500_000),
    ("google", "gemini-2.0-flash", 100_000, 400_000),
    ("deepseek", "deepseek-chat", 270_000, 1_100_000),
    ("nano-gpt", "glm-5", 1_000_000, 3_200_000),
    ("minimax", "minimax-v2-pro", 300_000, 1_200_000),
    ("openrouter", "minimax/minimax-v2-pro", 300_000, 1_200_000),
    ("anthropic", "claude-3-haiku", 250_000, 1_250_000),
]


@pytest.mark.parametrize(("provider", "model", "input_picos", "output_picos"), PAIRS)
def test_r17_the_overlay_covers_the_reference_files(
    provider: str, model: str, input_picos: int, output_picos: int
) -> None:
    wire_id = VENDORS[provider].aliases.get(model, model)
    price = overlay()[provider, wire_id].price

    assert (price.input_picos, price.output_picos) == (input_picos, output_picos)
    assert price.source.endswith("(2026-11-23)")


def test_r17_the_provider_is_pinned() -> None:
    assert listing("openai", "claude-sonnet-4-5", None, TODAY).is_guess
    assert not listing("anthropic", "claude-sonnet-4-5", None, TODAY).is_guess


def test_r17_time_of_day_counts_at_its_dearest() -> None:
    price = listing("deepseek", "deepseek-flash", None, TODAY).price

    assert (price.input_picos, price.output_picos) == (300_000, 1_200_000)


def test_r17_a_price_that_begins_later_counts_already_and_one_that_ended_never() -> None:
    early = listing("deepseek", "deepseek-v4-pro", None, date(2026, 8, 1)).price
    late = listing("google", "gemini-3.8-flash", None, TODAY).price

    assert early.input_picos == 1_320_000
    assert late.input_picos == 1_500_000
    old = listing("anthropic", "claude-opus-4-6", None, date(2026, 3, 12)).price
    new = listing("anthropic", "claude-opus-4-6", None, TODAY).price
    assert (old.tier_tokens, new.tier_tokens) == (200_000, None)


def test_r17_long_context_tiers_are_kept() -> None:
    price = listing("anthropic", "claude-sonnet-4-5", None, TODAY).price

    assert price.tier_tokens == 200_000
    assert price.tier is not None
    assert (price.input_picos, price.tier.input_picos) == (3_000_000, 6_000_000)


@pytest.mark.fault("G5")
def test_r17_anything_else_costs_the_dearest_and_is_said_loudly() -> None:
    found = loaded(changed("model: gpt-4o\n", "model: gpt-nobody-knows\n"))

    price = found.catalog.models[1].price
    assert price == dearest(TODAY)
    assert price.output_picos >= 600_000_000
    notice = next(n for n in found.notices if n.code == "PRICE_UNKNOWN")
    assert (notice.level, notice.line) == (Level.WARNING, 14)


def test_free_variants_and_local_models_cost_nothing_and_say_why() -> None:
    free = listing("openrouter", "minimax/minimax-m3.1-flash:free", None, TODAY)
    local = listing("ollama", "llama3", None, TODAY)

    assert free.price.is_zero
    assert local.price.is_zero
    assert free.price.source
    assert local.price.source


def test_sizes_are_known_where_the_package_knows_them() -> None:
    assert listing("openai", "gpt-5", None, TODAY).context_tokens == 400_000
    assert listing("openai", "gpt-4o", None, TODAY).output_tokens_max == 16_384
    assert listing("nobody", "x", None, TODAY).context_tokens is None


def test_no_price_of_the_overlay_is_free_by_accident() -> None:
    assert len(overlay()) == len(PAIRS)
    assert not any(entry.price.is_zero for entry in overlay().values())
    assert isinstance(dearest(TODAY), Price)
