"""`escalade schema`: the strategy file for editors, and the words that decide where tasks go."""

import click

from escalade_server import bootstrap
from escalade_server.cli import output


@click.command("schema")
@click.option("--words", is_flag=True, help="Task types, depths and capability words instead.")
@output.json_option
def command(*, words: bool, as_json: bool) -> None:
    """Print the JSON Schema of the strategy file."""
    if not words:
        output.print_json(bootstrap.schema())
        return
    table = bootstrap.vocabulary()
    if as_json:
        output.print_json(table)
        return
    out = output.console()
    rows = [
        (name, str(row["depth"]), _joined(row["any_of"]), _joined(row["aliases"]))
        for name, row in table.items()
    ]
    out.print(output.table(("type", "depth", "any of", "also written"), rows, out))


def _joined(words: object) -> str:
    return ", ".join(words) if isinstance(words, list) else ""
