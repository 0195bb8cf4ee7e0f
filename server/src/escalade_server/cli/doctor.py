"""`escalade doctor`: what keeps a server from serving well here, and the mend."""

import os

import click
from rich.text import Text

from escalade_server import bootstrap
from escalade_server.bootstrap import Found, Mark, Patient
from escalade_server.cli import output
from escalade_server.cli.client import CA, TOKEN
from escalade_server.cli.output import Exit

STYLES = {
    Mark.OK: "green",
    Mark.WARNING: "yellow",
    Mark.FAILED: "bold red",
    Mark.UNREACHABLE: "bold red",
    Mark.SKIPPED: "dim",
}


@click.command("doctor")
@click.option("--strategy", type=click.Path(), help="Looks at its keys and providers' clocks.")
@click.option("--state", help="File of the ledger.  [default: escalade.sqlite3]")
@click.option("--port", default=50051, show_default=True, help="Who listens there?")
@click.option("--address", help="HOST:PORT as clients dial it: holds a stream through it.")
@click.option(
    "--stream", type=output.Duration(), default="20s", show_default=True, help="For how long."
)
@output.json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    strategy: str | None,
    state: str | None,
    port: int,
    address: str | None,
    stream: float,
    as_json: bool,
) -> None:
    """Look for what keeps a server from serving well here.

    Nothing is changed, no key is sent anywhere and no model called. ESCALADE_TOKEN and
    ESCALADE_TLS_CA are used for --address. Exit code 0: all is well, or there are warnings only;
    1: something must be mended; 3: that is only that nobody serves at --address.
    """
    patient = Patient(
        strategy=strategy,
        state=state,
        address=address,
        port=port,
        stream_s=stream,
        token=os.environ.get(TOKEN) or None,
        authority=os.environ.get(CA) or None,
    )
    found = bootstrap.run(_examine(patient))
    marks = {each.mark for each in found}
    code = Exit.OK
    if Mark.FAILED in marks:
        code = Exit.FAILED
    elif Mark.UNREACHABLE in marks:
        code = Exit.UNREACHABLE
    if as_json:
        output.print_json(
            {
                "ok": code is Exit.OK,
                "checks": [
                    {
                        "check": each.check,
                        "result": each.mark.value,
                        "detail": each.detail,
                        "mend": each.mend,
                    }
                    for each in found
                ],
            }
        )
    else:
        out = output.console()
        rows = [
            (each.check, Text(each.mark.value, STYLES[each.mark]), each.detail, each.mend)
            for each in found
        ]
        out.print(output.table(("check", "result", "found", "mend"), rows, out))
    ctx.exit(code)


async def _examine(patient: Patient) -> list[Found]:
    return [found async for found in bootstrap.examine(patient)]
