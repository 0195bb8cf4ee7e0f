"""`escalade trace`: how one task went, as a waterfall in the terminal or as a page."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.text import Text

import escalade
from escalade_server.cli import output
from escalade_server.cli.client import DEFAULT_TARGET, connect, refused
from escalade_server.cli.waterfall import waterfall_of
from escalade_server.report.waterfall import Axis, Kind, Row, Waterfall, as_html, span

TIMEOUT_S = 10.0
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
NAME_MOST = 32
WIDTH_MOST = 140
STYLES = {
    Kind.TASK: "bold",
    Kind.STEP: "dim",
    Kind.LAYER: "bold cyan",
    Kind.ATTEMPT: "green",
    Kind.FAILED: "red",
    Kind.WAIT: "yellow",
}


@click.command("trace")
@click.argument("request_id")
@click.option("--target", default=DEFAULT_TARGET, show_default=True, help="Where the server is.")
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page to this file."
)
@output.json_option
def command(*, request_id: str, target: str, html: Path | None, as_json: bool) -> None:
    """Show how one task went: layers, attempts, waits, what they took and cost.

    REQUEST_ID is that of the request, or a trace id; `escalade watch` shows both. Tasks to which
    something happened are kept for a day, of the others the last few.
    """
    if as_json and html is not None:
        raise click.UsageError("give --html or --json")
    try:
        with connect(target) as client:
            try:
                told = client.trace(request_id, timeout=TIMEOUT_S)
            except escalade.TraceUnknown:
                if not _TRACE_ID.fullmatch(request_id):
                    raise
                told = client.trace(trace_id=request_id, timeout=TIMEOUT_S)
    except escalade.EscaladeError as error:
        raise refused(error, target) from error
    if as_json:
        output.print_json(MessageToDict(told))
    elif html is not None:
        output.write_page(html, as_html(waterfall_of(told)))
    else:
        show(waterfall_of(told), output.console())


class Widths(NamedTuple):
    """Of the columns beside the bars: as wide as what is in them."""

    name: int
    time: int
    tokens: int
    cost: int


def show(told: Waterfall, out: Console) -> None:
    """Print a waterfall: bars on a terminal and in a file alike."""
    width = min(out.width if out.is_terminal else WIDTH_MOST, WIDTH_MOST)
    output.say(out, told.story or told.title, "bold")
    output.say(out, "  ".join(f"{name} {value}" for name, value in told.facts), "dim")
    heads = ("", "", "tokens", "cost")
    cells = [heads, *((_label(row), _took(row), row.tokens, row.cost) for row in told.rows)]
    sizes = Widths(*(max(map(len, column)) for column in zip(*cells, strict=True)))
    axis, room = Axis(told.rows), max(width - sum(sizes) - len(sizes), 10)
    head = f"{'':<{sizes.name}} {_scale(axis, room)} {_figures(heads, sizes)}"
    output.say(out, head.rstrip(), "dim")
    for row in told.rows:
        out.print(_line(row, axis, room, sizes, out), soft_wrap=not out.is_terminal)
        for note in row.notes:
            _print_note(note, row.depth, width, out)
    if axis.is_bent:
        output.say(out, "Waits are drawn shorter than they were.", "dim")


def _label(row: Row) -> str:
    label = f"{'  ' * row.depth}{row.name}"
    return label if len(label) <= NAME_MOST else f"{label[: NAME_MOST - 1]}…"


def _took(row: Row) -> str:
    return span(row.end_ms - row.start_ms)


def _figures(cells: Sequence[str], sizes: Widths) -> str:
    return " ".join(f"{cell:>{size}}" for cell, size in zip(cells[1:], sizes[1:], strict=True))


def _line(row: Row, axis: Axis, room: int, sizes: Widths, out: Console) -> Text:
    """Draw one row: its name, its bar on the common axis, and its figures."""
    label = _label(row)
    full, wait = ("█", "░") if out.encoding.startswith("utf") else ("#", ".")
    begin = min(round(axis.at(row.start_ms) * room), room - 1)
    length = max(round(axis.at(row.end_ms) * room) - begin, 1)
    bar = (wait if row.kind is Kind.WAIT else full) * length
    if row.end_ms == row.start_ms:
        bar = "|"
    figures = _figures((label, _took(row), row.tokens, row.cost), sizes).rstrip()
    style = STYLES[row.kind]
    made = Text(f"{label:<{sizes.name}} ", style)
    made.append(f"{' ' * begin}{bar:<{room - begin}} ", style.removeprefix("bold "))
    return made.append(figures, "")


def _print_note(note: str, depth: int, width: int, out: Console) -> None:
    indent = "  " * (depth + 2)
    for line in textwrap.wrap(note, width - len(indent)) if out.is_terminal else [note]:
        out.print(Text(f"{indent}{line}", "dim"), soft_wrap=not out.is_terminal)


def _scale(axis: Axis, room: int) -> str:
    """Write the instants along the axis."""
    cells = [" "] * room
    for place, word in axis.ticks():
        begin = min(max(round(place * room) - len(word) // 2, 0), room - len(word))
        if all(cell == " " for cell in cells[max(begin - 1, 0) : begin + len(word) + 1]):
            cells[begin : begin + len(word)] = word
    return "".join(cells)
