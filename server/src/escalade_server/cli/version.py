"""`escalade version`."""

from importlib import metadata

import click

from escalade_server.cli import output


@click.command("version")
@output.json_option
def command(*, as_json: bool) -> None:
    """Print the version."""
    version = metadata.version("escalade-server")
    if as_json:
        output.print_json({"version": version})
    else:
        click.echo(f"escalade {version}")
