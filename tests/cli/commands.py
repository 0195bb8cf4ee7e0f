"""Runs commands in this process, for tests."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from escalade_server.cli.main import main

STRATEGIES = Path(__file__).resolve().parents[1] / "strategies"
KEY_NAMES = (
    "ANTHROPIC_API_KEY",
    "DEEPSEEK_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "MINIMAX_API_KEY",
    "NANO_GPT_API_KEY",
    "NANOGPT_API_KEY",
    "OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
)


def strategy(version: int) -> str:
    """Answer the path of a reference strategy."""
    return str(STRATEGIES / f"fallback-v{version}.yaml")


def run(*arguments: str, stdin: str = "", keys: tuple[str, ...] = ()) -> Result:
    """Run `escalade` without any key in the environment but these."""
    environ = dict.fromkeys(KEY_NAMES) | dict.fromkeys(keys, "made-up")
    return CliRunner(env=environ).invoke(main, arguments, input=stdin)


def data(result: Result) -> Any:
    """Read what a command printed with `--json`."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)
