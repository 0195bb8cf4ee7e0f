"""`escalade reload`: have a running server put its strategy file as it is now in force."""

from collections.abc import Iterable

import click
from google.protobuf.json_format import MessageToDict

import escalade
from escalade.v1 import operations_service_pb2 as wire
from escalade_server.cli import output
from escalade_server.cli.client import DEFAULT_TARGET, connect, refused
from escalade_server.cli.output import CommandError

TIMEOUT_S = 30.0
STYLES = {wire.SEVERITY_ERROR: "red", wire.SEVERITY_ADVICE: "yellow", wire.SEVERITY_NOTE: "dim"}


@click.command("reload")
@click.option("--check", "only_check", is_flag=True, help="Only check the file; change nothing.")
@click.option("--target", default=DEFAULT_TARGET, show_default=True, help="Where the server is.")
@output.json_option
def command(*, only_check: bool, target: str, as_json: bool) -> None:
    """Put the strategy file of a running server in force, whole or not at all. For operators.

    Exit code 1: the file is refused, and the strategy that was in force stays.
    """
    told: wire.CheckStrategyResponse | wire.ReloadStrategyResponse
    try:
        with connect(target) as client:
            if only_check:
                told = client.check_strategy(timeout=TIMEOUT_S)
            else:
                told = client.reload_strategy(timeout=TIMEOUT_S)
    except escalade.EscaladeError as error:
        raise refused(error, target) from error
    is_good = told.valid if isinstance(told, wire.CheckStrategyResponse) else told.applied
    if as_json:
        output.print_json(MessageToDict(told, always_print_fields_with_no_presence=True))
    else:
        _say(told.findings)
    if not is_good:
        word = "has errors" if only_check else "is refused; the one that was in force stays"
        raise CommandError(f"The strategy {word}: mend it, then run `escalade reload`.")
    if not as_json:
        click.echo("The strategy is good." if only_check else "The strategy is in force.")


def _say(findings: Iterable[wire.Finding]) -> None:
    out = output.console()
    for found in findings:
        where = f"line {found.line}: " if found.line else ""
        what = f"{found.key}: {found.message}" if found.key else found.message
        mend = f" {found.mend}" if found.mend else ""
        output.say(out, f"{where}{what}{mend}", STYLES.get(found.severity, ""))
