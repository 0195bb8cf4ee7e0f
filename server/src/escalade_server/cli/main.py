"""`escalade`: the command line. One line here registers a command."""

import click

from escalade_server import bootstrap
from escalade_server.cli import (
    check,
    complete,
    demo,
    explain,
    schema,
    serve,
    simulate_providers,
    status,
    version,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bootstrap.version(), prog_name="escalade")
def main() -> None:
    """Answers every task from the cheapest layer of models that can do it.

    Exit codes: 0 done; 1 no; 2 the command was not understood; 3 nobody answers there; 4 later.
    """


main.add_command(check.command)
main.add_command(complete.command)
main.add_command(demo.command)
main.add_command(explain.command)
main.add_command(schema.command)
main.add_command(serve.command)
main.add_command(simulate_providers.command)
main.add_command(status.command)
main.add_command(version.command)
