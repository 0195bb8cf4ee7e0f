"""Strategy files as text, for tests."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

from escalade_server.strategy.load import Loaded, load, loads

FILES = Path(__file__).resolve().parents[1] / "strategies"
TODAY = date(2026, 11, 23)
KEYS = {
    "OPENAI_API_KEY": "key-openai",
    "GEMINI_API_KEY": "key-google",
    "DEEPSEEK_API_KEY": "key-deepseek",
    "NANO_GPT_API_KEY": "key-nano",
    "MINIMAX_API_KEY": "key-minimax",
    "ANTHROPIC_API_KEY": "key-anthropic",
    "OPENROUTER_API_KEY": "key-openrouter",
}

GOOD = """\
fallback_strategy:
  layers:
    - name: free
      models:
        - provider: openai
          model: gpt-4o-mini
          rate_limit: 50/day
          capabilities: [parsing]
      priority: 1
      cost_per_month: 0
    - name: premium
      models:
        - provider: openai
          model: gpt-4o
      priority: 2
      trigger:
        - free.exhausted
        - task.complexity > 8
      monthly_cap: 5_usd
"""
"""A small good file; tests change lines of it."""


def reference(
    version: int, environ: Mapping[str, str] = KEYS, *, assume_keys: bool = False
) -> Loaded:
    """Load one of the two reference files."""
    path = FILES / f"fallback-v{version}.yaml"
    return load(path, environ=environ, assume_keys=assume_keys, today=TODAY)


def loaded(text: str, environ: Mapping[str, str] = KEYS) -> Loaded:
    """Load a text."""
    return loads(text, file="s.yaml", environ=environ, today=TODAY)


def changed(old: str, new: str) -> str:
    """Change one place of the good file."""
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def with_more(text: str) -> str:
    """Add sections beside the good file's strategy."""
    return GOOD + text
