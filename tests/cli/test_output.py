"""Tables on a terminal of any width: nothing is cut off, and names stay whole while they can."""

import os
from collections.abc import Sequence

import pytest
from rich.console import Console

from escalade_server.cli import output

LONG = "openrouter/minimax/minimax-v2-pro"
ROWS = (
    ("budget_subscription", LONG, "→ selected", "$0.0199", ""),
    ("free", "openai/gpt-4o", "down", "free", "set aside by an operator: odd answers, until noon"),
)
HEADS = ("layer", "model", "verdict", "at most", "why")


def shown(width: int, rows: Sequence[Sequence[str]] = ROWS, *, terminal: bool = True) -> list[str]:
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        out = Console(
            width=width, record=True, file=nowhere, force_terminal=terminal, highlight=False
        )
        out.print(output.table(HEADS, rows, out))
    return out.export_text().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_table_fits_its_terminal_and_loses_nothing(width: int) -> None:
    lines = shown(width)
    assert all(len(line) <= width for line in lines)
    signs = sorted(sign for line in lines for sign in line if sign not in " │─╭╮╰╯┬┴┼├┤")
    assert signs == sorted("".join("".join((*HEADS, *ROWS[0], *ROWS[1])).split()))


def test_a_column_with_nothing_in_it_is_left_out_on_a_terminal_only() -> None:
    assert "why" not in shown(200, ROWS[:1])[1]
    assert "why" in shown(200, ROWS[:1], terminal=False)[0]


def test_what_does_not_fit_is_folded_at_words_and_joints() -> None:
    text = shown(80)
    assert not any("│" in line for line in text)
    assert any("budget_subscription" in line and "→ selected" in line for line in text)
    words = {word for line in text for word in line.split()}
    assert {"openrouter/", "operator:", "openai/gpt-4o", "$0.0199"} <= words


def test_without_a_terminal_nothing_is_folded() -> None:
    lines = shown(240, terminal=False)
    assert len(lines) == 3
    assert LONG in lines[1]
