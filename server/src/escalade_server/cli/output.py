"""How every command speaks: tables for people, JSON for programs, errors with their mend."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from escalade_server.core.words import usd as _usd

PLAIN_WIDTH = 240
"""Columns of a line without a terminal: a file is not wrapped."""
SHORT = 12
"""Columns of a cell that is not folded while another one can be."""
_WORD = re.compile(r"[^ ]+")
_PIECE = re.compile(r"[^ /:-]+[/:-]*|[/:-]+")
_SIGN = re.compile(r"[^ ]")
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
    """Lay out rows: plain columns; on a terminal framed if they fit, else in folded cells.

    On a terminal a column without anything in it is left out. What does not fit is folded between
    words: numbers and names keep their line as long as there is room for them.
    """
    texts = [list(row) for row in rows]
    used = [
        place
        for place in range(len(columns))
        if not (out.is_terminal and texts) or any(len(row[place]) for row in texts)
    ]
    heads = [columns[place] for place in used]
    grid = [[row[place] for place in used] for row in texts]
    lines = [[str(cell) for cell in line] for line in zip(heads, *grid, strict=True)]
    wide = [max(map(cell_len, line)) for line in lines]
    framed = out.is_terminal and sum(wide) + 3 * len(used) + 1 <= out.width
    made = Table(
        box=box.ROUNDED if framed else None,
        pad_edge=framed,
        padding=(0, 1) if framed or not out.is_terminal else (0, 2, 0, 0),
    )
    widths = (
        wide if framed or not out.is_terminal else _fitted(lines, out.width - 2 * (len(used) - 1))
    )
    for head, width in zip(heads, widths, strict=True):
        made.add_column(head, overflow="fold", width=width if out.is_terminal else None)
    for row in grid:
        made.add_row(
            *(
                Text(_broken(cell, width)) if isinstance(cell, str) else cell
                for cell, width in zip(row, widths, strict=True)
            )
        )
    return made


def _fitted(lines: Sequence[Sequence[str]], room: int) -> list[int]:
    """Find widths for columns: the widest give way first, down to their words, then within them."""
    wide = [max(map(cell_len, line)) for line in lines]
    widths = list(wide)
    for part, floor in ((_WORD, 2 * SHORT), (_PIECE, SHORT), (_SIGN, 1)):
        parts = [[cell_len(it) for text in line for it in part.findall(text)] for line in lines]
        least = [min(width, max(floor, *found)) for width, found in zip(wide, parts, strict=True)]
        while sum(widths) > room:
            able = [place for place, width in enumerate(widths) if width > least[place]]
            if not able:
                break
            widths[max(able, key=widths.__getitem__)] -= 1
    return widths


def _broken(text: str, width: int) -> str:
    """Break words that are too long for a line where a name has its joints."""
    words = []
    for word in re.split(r"( +)", text):
        line, made = "", ""
        for piece in _PIECE.findall(word) if cell_len(word) > width else [word]:
            if line and cell_len(line + piece) > width:
                made, line = f"{made}{line}\n", ""
            line += piece
        words.append(made + line)
    return "".join(words)


def say(out: Console, sentence: str, style: str = "") -> None:
    """Print one sentence as it is: never wrapped outside a terminal, no markup in it."""
    out.print(Text(sentence, style), soft_wrap=not out.is_terminal)


def no_key(provider: str, account: str, mend: str) -> str:
    """Say that an account has no key, and what to set."""
    whose = provider if account == "default" else f"{provider} ({account})"
    return f"No key for {whose}: {mend}."


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
    """Write nano-dollars as dollars, as everywhere."""
    return _usd(nanos)


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
