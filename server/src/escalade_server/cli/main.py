"""`escalade`: the command line. One row of the table and one case make a command."""
# ruff: noqa: PLC0415 - imports stand in the cases, so that a command waits for its own only

import click

NAMES = (
    "check",
    "complete",
    "demo",
    "doctor",
    "explain",
    "model",
    "reload",
    "report",
    "ledger",
    "schema",
    "serve",
    "simulate-providers",
    "status",
    "token",
    "trace",
    "version",
    "watch",
)


class Commands(click.Group):
    """Loads a command when it is asked for: each waits for its own imports only."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """List the names."""
        return list(NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Find a command by its name."""
        match cmd_name:
            case "check":
                from escalade_server.cli.check import command
            case "complete":
                from escalade_server.cli.complete import command
            case "demo":
                from escalade_server.cli.demo import command
            case "doctor":
                from escalade_server.cli.doctor import command
            case "explain":
                from escalade_server.cli.explain import command
            case "ledger":
                from escalade_server.cli.ledger import command
            case "model":
                from escalade_server.cli.model import command
            case "reload":
                from escalade_server.cli.reload import command
            case "report":
                from escalade_server.cli.report import command
            case "schema":
                from escalade_server.cli.schema import command
            case "serve":
                from escalade_server.cli.serve import command
            case "simulate-providers":
                from escalade_server.cli.simulate_providers import command
            case "status":
                from escalade_server.cli.status import command
            case "token":
                from escalade_server.cli.token import command
            case "trace":
                from escalade_server.cli.trace import command
            case "version":
                from escalade_server.cli.version import command
            case "watch":
                from escalade_server.cli.watch import command
            case _:
                return None
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="escalade-server", prog_name="escalade")
def main() -> None:
    """Answers every task from the cheapest layer of models that can do it.

    Exit codes: 0 done; 1 no; 2 the command was not understood; 3 nobody answers there; 4 later.
    """
