"""`escalade`: the command line. One row of the table and one case make a command."""
# ruff: noqa: PLC0415 - imports stand in the cases, so that a command waits for its own only

import os
from difflib import get_close_matches

import click

NAMES = (
    "check",
    "complete",
    "demo",
    "doctor",
    "explain",
    "ledger",
    "model",
    "reload",
    "report",
    "schema",
    "serve",
    "simulate-providers",
    "status",
    "token",
    "trace",
    "version",
    "watch",
)
LINE_MAX = 200
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


class Commands(click.Group):
    """Loads a command when it is asked for: each waits for its own imports only."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command. gRPC's own lines on standard error only repeat what our errors say."""
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed, or name the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], NAMES, n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with what they do, whole."""
        rows = [
            (name, made.get_short_help_str(LINE_MAX))
            for name in NAMES
            if (made := self.get_command(ctx, name)) is not None
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

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


@click.group(cls=Commands, context_settings=HELP)
@click.version_option(package_name="escalade-server", prog_name="escalade")
def main() -> None:
    """Answers every task from the cheapest layer of models that can do it.

    Exit codes: 0 done; 1 no; 2 the command was not understood; 3 nobody answers there; 4 later.
    """
