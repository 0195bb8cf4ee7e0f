"""The end of `escalade demo`: what the day cost, by layer, and whether the books agree."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from escalade_server.cli import output
from escalade_server.cli.demo_before import Before
from escalade_server.cli.demo_books import Audit, Books

PERCENT = 100
LOST_SHOWN = 5


def before_line(before: Before) -> Text:
    """Say how the same job ended on one free model."""
    if before.died_at is None:
        return Text(
            f"Without Escalade, on {before.model} alone: {before.calls} calls, all answered."
        )
    return Text.assemble(
        "Before: the same job on ",
        (before.model, "bold"),
        " alone, called directly, died in ",
        (f"step {before.step} of {before.steps}", "bold red"),
        f" at call {before.died_at} of {before.total}: ",
        (f"HTTP {before.status}, {before.message}.", "red"),
    )


def show(out: Console, books: Books, audit: Audit, strategy: Path, seconds: float) -> None:
    """Print the end."""
    out.print()
    columns = ("layer", "tasks", "share", "tokens", "list value", "charged")
    rows: list[tuple[str, ...]] = [
        (
            name,
            str(row.tasks),
            f"{row.tasks * PERCENT / max(books.tasks, 1):.0f} %",
            f"{row.tokens:,}",
            output.usd(row.list_nanos),
            output.usd(row.charged_nanos),
        )
        for name, row in books.layers.items()
    ]
    tokens = sum(row.tokens for row in books.layers.values())
    answered = books.tasks - len(books.lost)
    total = ("all", str(answered), "", f"{tokens:,}", output.usd(books.nanos))
    table = output.table(columns, [*rows, (*total, output.usd(books.charged_nanos))], out)
    for column in table.columns[1:]:
        column.justify = "right"
    out.print(table)
    for (start, end, reason), count in books.escalations.most_common():
        _say(out, f"{count:>3} x {start} → {end}: {reason}")
    _say(out, f"{books.fallbacks:>3} x fallback inside a layer")
    _say(out, f"{books.retractions:>3} x retracted and started over")
    out.print()
    _say(out, _cost(books))
    lost = len(books.lost)
    style = "bold red" if lost else "bold green"
    text = f"{lost} tasks lost: {answered} of {books.tasks} answered, in {seconds:.0f} s."
    out.print(Text(text, style))
    for done in books.lost[:LOST_SHOWN]:
        out.print(Text(f"  lost: {done.chore.title}: {done.error}", "red"))
    if lost > LOST_SHOWN:
        out.print(Text(f"  and {lost - LOST_SHOWN} more", "red"))
    _say_audit(out, audit)
    if not lost:
        _say_next(out, strategy)


def _cost(books: Books) -> str:
    spared = books.baseline_nanos - books.charged_nanos
    share = spared * PERCENT // books.baseline_nanos if books.baseline_nanos else 0
    return (
        f"Charged: {output.usd(books.charged_nanos)}. The same answers from {books.baseline_model}"
        f" alone: {output.usd(books.baseline_nanos)} ({share} % less). Subscriptions are paid by"
        " their flat fee; their use counts at list value against their caps."
    )


def _say_audit(out: Console, audit: Audit) -> None:
    text = (
        f"The providers counted {audit.their_calls} calls and {_exact(audit.their_nanos)};"
        f" our books say {audit.our_calls} and {_exact(audit.our_nanos)}."
    )
    if audit.bounded_calls and not audit.differences:
        calls = "1 call" if audit.bounded_calls == 1 else f"{audit.bounded_calls} calls"
        text += f" {calls} broke before the bill was told: booked on the safe side."
    _say(out, text, "bold red" if audit.differences else "bold green")
    for difference in audit.differences:
        out.print(Text(f"  the books differ: {difference}", "red"))


def _say_next(out: Console, strategy: Path) -> None:
    out.print()
    out.print(Text("Next, with your own keys (any of them will do):", "bold"))
    for line in (
        "export OPENAI_API_KEY=... DEEPSEEK_API_KEY=... OPENROUTER_API_KEY=...",
        f"cp {_near(strategy)} strategy.yaml",
        f"{_escalade()} serve --strategy strategy.yaml",
        f"{_escalade()} explain --strategy strategy.yaml --task-type architecture --files 10",
    ):
        out.print(Text(f"  {line}", "cyan"), soft_wrap=True)


def _escalade() -> str:
    """How this command was called: it may not be on the PATH."""
    return "escalade" if shutil.which("escalade") == sys.argv[0] else _near(Path(sys.argv[0]))


def _near(path: Path) -> str:
    """The path as it is shortest to type from here."""
    return min(str(path), os.path.relpath(path), key=len)


def _exact(nanos: int) -> str:
    return f"${nanos / 1_000_000_000:.6f}"


def _say(out: Console, text: str, style: str = "") -> None:
    out.print(Text(text, style))


def as_json(before: Before, books: Books, audit: Audit, seconds: float) -> dict[str, object]:
    """Turn the end into plain data."""
    return {
        "before": {
            "model": before.model,
            "died_at_call": before.died_at,
            "step": before.step,
            "steps": before.steps,
            "http_status": before.status,
            "message": before.message,
        },
        "seconds": round(seconds, 1),
        "tasks": books.tasks,
        "lost": [
            {"task": done.number, "title": done.chore.title, "error": str(done.error)}
            for done in books.lost
        ],
        "layers": [
            {
                "layer": name,
                "tasks": row.tasks,
                "tokens": row.tokens,
                "list_nano_usd": row.list_nanos,
                "charged_nano_usd": row.charged_nanos,
            }
            for name, row in books.layers.items()
        ],
        "escalations": [
            {"from_layer": start, "to_layer": end, "reason": reason, "count": count}
            for (start, end, reason), count in books.escalations.most_common()
        ],
        "fallbacks": books.fallbacks,
        "retractions": books.retractions,
        "charged_nano_usd": books.charged_nanos,
        "baseline": {"model": books.baseline_model, "list_nano_usd": books.baseline_nanos},
        "books": {
            "provider_calls": audit.their_calls,
            "provider_nano_usd": audit.their_nanos,
            "our_calls": audit.our_calls,
            "our_nano_usd": audit.our_nanos,
            "bounded_calls": audit.bounded_calls,
            "differences": list(audit.differences),
        },
    }
