"""`escalade version`."""

import click

from escalade_server import bootstrap
from escalade_server.cli import output


@click.command("version")
@output.json_option
def command(*, as_json: bool) -> None:
    """Print the version."""
    if as_json:
        output.print_json({"version": bootstrap.version()})
    else:
        click.echo(f"escalade {bootstrap.version()}")
