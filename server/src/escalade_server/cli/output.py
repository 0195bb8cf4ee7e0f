"""How every command speaks: tables for people, JSON for programs, errors with their mend."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 240
"""Columns of a line without a terminal: a file is not wrapped."""
_NANOS_PER_USD = 1_000_000_000
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Exit(IntEnum):
    """What an exit code means; the same for every command."""

    OK = 0
    FAILED = 1
    """The answer is no: errors in a file, a task without an answer."""
    USAGE = 2
    """The command was not understood."""
    UNREACHABLE = 3
    """Nobody answers there."""
    TRY_LATER = 4
    """No for now; the message names the instant."""


class CommandError(click.ClickException):
    """Ends a command with one sentence that holds the mend."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        """Keep the code next to the sentence."""
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # how click documents it


def console() -> Console:
    """Make the console of standard output: rich on a terminal, else plain lines."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made = Console(highlight=False, width=PLAIN_WIDTH, no_color=True, emoji=False)
    return made


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], out: Console) -> Table:
    """Lay out rows: framed on a terminal, plain columns elsewhere."""
    made = Table(box=box.ROUNDED if out.is_terminal else None, pad_edge=out.is_terminal)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def say(out: Console, sentence: str, style: str = "") -> None:
    """Print one sentence as it is: never wrapped outside a terminal, no markup in it."""
    out.print(Text(sentence, style), soft_wrap=not out.is_terminal)


def print_json(data: object) -> None:
    """Print data as JSON for programs."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_json_line(data: object) -> None:
    """Print data as one line of JSON, at once."""
    click.echo(json.dumps(data, ensure_ascii=False))
    sys.stdout.flush()


def write_page(path: Path, page: str) -> None:
    """Write a page to a file, and say where it is."""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from error
    click.echo(f"{path} is written: open it in a browser, or print it.")


def usd(nanos: int) -> str:
    """Write nano-dollars as dollars: cents from a dollar on, four places below."""
    if nanos >= _NANOS_PER_USD or not nanos:
        return f"${nanos / _NANOS_PER_USD:,.2f}"
    return f"${nanos / _NANOS_PER_USD:.4f}"


def bar(spent: int, held: int, limit: int, out: Console, width: int = 20) -> str:
    """Draw a quota: what is spent, what is held, what is free."""
    full, part, free = ("█", "▒", "░") if out.encoding.startswith("utf") else ("#", "+", ".")
    if limit <= 0:
        return full * width
    used = min(-(-spent * width // limit), width)
    both = min(-(-(spent + held) * width // limit), width)
    return full * used + part * (both - used) + free * (width - both)


class Duration(click.ParamType[float]):
    """Seconds as `30s`, `500ms`, `2m`, `1h`, `90d`, or a bare number."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Turn the text into seconds."""
        if isinstance(value, int | float):
            return float(value)
        found = _DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no duration; write 30s, 500ms, 2m, 1h or 90d", param, ctx)
        return float(found[1]) * _SECONDS[found[2] or "s"]


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
