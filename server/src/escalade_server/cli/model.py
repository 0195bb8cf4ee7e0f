"""`escalade model`: set models aside, take them in again, end their cooldowns."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import click

import escalade
from escalade.v1 import operations_service_pb2 as wire
from escalade.v1.escalation_pb2 import ModelRef
from escalade_server.cli import output
from escalade_server.cli.client import DEFAULT_TARGET, connect, refused
from escalade_server.cli.status import model_json, model_rows

TIMEOUT_S = 10.0
ACTIONS = {
    "disable": wire.MODEL_ACTION_DISABLE,
    "enable": wire.MODEL_ACTION_ENABLE,
    "clear": wire.MODEL_ACTION_CLEAR_COOLDOWN,
}


@click.command("model")
@click.argument("action", type=click.Choice(list(ACTIONS)))
@click.argument("what")
@click.option("--for", "for_s", type=output.Duration(), help="Disable for so long only.")
@click.option("--layer", default="", help="In this layer only.")
@click.option("--account", default="", help="On this account only.")
@click.option("--reason", default="", help="Why; status, events and the log show it.")
@click.option("--target", default=DEFAULT_TARGET, show_default=True, help="Where the server is.")
@output.json_option
def command(
    *,
    action: str,
    what: str,
    for_s: float | None,
    layer: str,
    account: str,
    reason: str,
    target: str,
    as_json: bool,
) -> None:
    """Set models aside (disable), take them in again (enable), end their cooldowns (clear).

    WHAT is a provider, PROVIDER/MODEL, or a model. For operators; calls that run go on. `clear`
    also closes circuits, such as after a key was mended.
    """
    until = None if for_s is None else datetime.now(tz=UTC) + timedelta(seconds=for_s)
    try:
        with connect(target) as client:
            known = [m.target.provider for at in client.status().layers for m in at.models]
            place = place_of(what, known)
            place.layer, place.account = layer, account
            told = client.set_model_state(
                ACTIONS[action], place, until=until, note=reason, timeout=TIMEOUT_S
            )
    except escalade.EscaladeError as error:
        raise refused(error, target) from error
    if as_json:
        output.print_json([model_json(model) for model in told.models])
        return
    out = output.console()
    rows = [row for model in told.models for row in model_rows(model.target.layer, (model,))]
    out.print(output.table(("layer", "model", "billing", "state", "why"), rows, out))


def place_of(what: str, providers: Sequence[str]) -> ModelRef:
    """Read what is meant; a bare name is a provider's, if there is one."""
    provider, slash, model = what.partition("/")
    if not slash and provider not in providers:
        provider, model = "", what
    return ModelRef(provider=provider, model=model)
