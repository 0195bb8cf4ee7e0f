"""The scenario that is played when none is given: every provider of the reference strategies."""

from __future__ import annotations

from escalade_server.provider_simulator.scenario import (
    ModelScript,
    Price,
    ProviderScript,
    Quota,
    Scenario,
)

PACIFIC = "America/Los_Angeles"


def model(
    input_pico: int, output_pico: int, *quotas: Quota, bills_after_disconnect: bool = False
) -> ModelScript:
    """A model at this price, as fast as hosted models are."""
    return ModelScript(
        price=Price(input_pico=input_pico, output_pico=output_pico),
        quotas=quotas,
        first_token_ms=40,
        chunk_interval_ms=5,
        bills_after_disconnect=bills_after_disconnect,
    )


def default_scenario() -> Scenario:
    """Providers, models and free quotas of the two reference strategies, and a local model.

    Prices are list prices of late 2026, in pico-dollars per token. Google and MiniMax bill to the
    end when a client leaves. Google speaks Gemini's dialect at home and Anthropic its own; who
    calls OpenAI's path there is answered in OpenAI's. Models stand under the names of the
    strategies and under those that are sent for them.
    """
    mini_quotas = (
        Quota(limit=50),
        Quota(limit=100_000, of="tokens"),
    )
    gemini_quotas = (
        Quota(limit=100, zone=PACIFIC),
        Quota(limit=200_000, of="tokens", zone=PACIFIC),
    )
    flash = model(100_000, 400_000, *gemini_quotas, bills_after_disconnect=True)
    minimax = model(300_000, 1_200_000, bills_after_disconnect=True)
    return Scenario(
        providers={
            "openai": ProviderScript(
                models={
                    "gpt-4o-mini": model(150_000, 600_000, *mini_quotas),
                    "gpt-4o": model(2_500_000, 10_000_000),
                }
            ),
            "google": ProviderScript(
                models=dict.fromkeys(
                    ("gemini-flash", "gemini-flash-latest", "gemini-2.0-flash"), flash
                ),
            ),
            "deepseek": ProviderScript(models={"deepseek-chat": model(270_000, 1_100_000)}),
            "openrouter": ProviderScript(
                models=dict.fromkeys(("minimax/minimax-v2-pro", "minimax/minimax-m2.7"), minimax)
            ),
            "nano-gpt": ProviderScript(
                models=dict.fromkeys(("glm-5", "zai-org/glm-5"), model(1_000_000, 3_200_000))
            ),
            "minimax": ProviderScript(
                models=dict.fromkeys(("minimax-v2-pro", "MiniMax-M2.7"), minimax)
            ),
            "anthropic": ProviderScript(
                models=dict.fromkeys(
                    ("claude-3-haiku", "claude-3-haiku-20240307"), model(250_000, 1_250_000)
                ),
            ),
            "ollama": ProviderScript(models={"llama3.2": model(0, 0)}),
        }
    )
