"""`escalade explain`: one task's score, plan and skips, without a server."""

import click
from rich.text import Text

from escalade_server import bootstrap
from escalade_server.cli import output
from escalade_server.cli.output import Exit
from escalade_server.cli.strategy_file import load
from escalade_server.report import plan as plans

MICRO = 1_000_000


@click.command("explain")
@click.option("--strategy", required=True, type=click.Path(), help="The strategy file.")
@click.option("--task-type", default="", help="Such as debug, refactor or plan.")
@click.option("--files", type=click.IntRange(min=0), help="Number of affected files.")
@click.option("--tokens", type=click.IntRange(min=0), help="Estimated context in tokens.")
@click.option("--complexity", type=click.FloatRange(0, 10), help="Replaces the score.")
@click.option("--capability", "capabilities", multiple=True, help="Needed; all of those given.")
@click.option("--free-only", is_flag=True, help="No layer that costs money.")
@click.option("--highest-layer", default="", help="The highest layer that may answer.")
@click.option("--message", default="", help="The user's text; what is absent is estimated from it.")
@output.json_option
def command(
    *,
    strategy: str,
    task_type: str,
    files: int | None,
    tokens: int | None,
    complexity: float | None,
    capabilities: tuple[str, ...],
    free_only: bool,
    highest_layer: str,
    message: str,
    as_json: bool,
) -> None:
    """Explain where a task would go, and what stands for or against each model."""
    loaded = load(strategy, assume_keys=True)
    question = plans.Question(
        type=task_type,
        files=files,
        tokens=tokens,
        complexity_micro=None if complexity is None else round(complexity * MICRO),
        capabilities=capabilities,
        free_only=free_only,
        highest_layer=highest_layer,
        message=message,
    )
    try:
        found = plans.plan(loaded.catalog, question)
    except ValueError as error:
        raise output.CommandError(f"{error}.", Exit.USAGE) from error
    missing = bootstrap.missing_keys(loaded)
    if as_json:
        output.print_json(plans.as_json(found, missing))
        return
    out = output.console()
    columns = ("layer", "model", "verdict", "at most", "key", "why")
    out.print(output.table(columns, [_cells(row, found, missing) for row in found.rows], out))
    for (provider, account), mend in missing.items():
        output.say(out, output.no_key(provider, account, mend), "yellow")
    output.say(out, plans.sentence(found))
    for name, why in found.assessment.estimated:
        output.say(out, f"Estimated {name}: {why}.")


def _cells(
    row: plans.Row, found: plans.Plan, missing: dict[tuple[str, str], str]
) -> tuple[str | Text, ...]:
    model, verdict = row.model, row.verdict
    is_ok = plans.is_ok(verdict)
    chosen = model is found.selected
    word = "→ selected" if chosen else "ok" if is_ok else verdict.cls.value
    style = "bold green" if chosen else "green" if is_ok else "yellow"
    why = "" if is_ok else f"{verdict.cause.value}: {verdict.detail}"
    no_key = missing.get((model.provider, model.account), "")
    return (
        model.layer,
        plans.name_of(model),
        Text(word, style),
        output.usd(row.worst_nanos) if model.is_paid else "free",
        Text("missing", "red") if no_key else "",
        why,
    )
