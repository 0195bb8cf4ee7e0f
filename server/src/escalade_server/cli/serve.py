"""`escalade serve`: the service itself."""

import click
from rich.text import Text

from escalade_server import bootstrap
from escalade_server.bootstrap import Loaded, Options, Running, StartError, StrategyErrors
from escalade_server.cli import output
from escalade_server.cli.output import CommandError
from escalade_server.report.plan import name_of

DEFAULT_LISTEN = "127.0.0.1:50051"
PORT_MAX = 65_535


@click.command("serve")
@click.option("--strategy", required=True, type=click.Path(), help="The strategy file.")
@click.option("--listen", default=DEFAULT_LISTEN, show_default=True, help="Port 0: any free one.")
@click.option("--state", help="File of the ledger.  [default: escalade.sqlite3]")
@click.option(
    "--tls-cert", type=click.Path(), help="PEM chain of the server; renewed when it changes."
)
@click.option("--tls-key", type=click.Path(), help="Its key, PEM, not encrypted.")
@click.option("--tls-client-ca", type=click.Path(), help="Callers show a certificate of this CA.")
@click.option(
    "--auth",
    type=click.Choice(["auto", "required", "optional"]),
    default="auto",
    show_default=True,
    help="Must callers be known? auto: not on loopback without agents and tokens.",
)
@click.option(
    "--allow-insecure", is_flag=True, help="Other machines: plaintext, or --auth optional."
)
@click.option(
    "--recover", is_flag=True, help="Damaged ledger: save what can be read, keep the old file."
)
@click.option("--reflection", is_flag=True, help="Describe the API to tools such as grpcurl.")
@click.option(
    "--grace",
    type=output.Duration(),
    default="30s",
    show_default=True,
    help="Time for running calls to end after SIGTERM or SIGINT.",
)
@click.option("--log", type=click.Choice(["json", "text"]), help="Default: text on a terminal.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@output.json_option
def command(
    *,
    strategy: str,
    listen: str,
    state: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    auth: bootstrap.Authentication,
    allow_insecure: bool,
    recover: bool,
    reflection: bool,
    grace: float,
    log: bootstrap.Format | None,
    log_level: bootstrap.Level,
    as_json: bool,
) -> None:
    """Serve a strategy until SIGTERM or SIGINT, then drain; a second signal exits at once."""
    host, port = _address(listen)
    options = Options(
        strategy=strategy,
        host=host,
        port=port,
        state=state,
        tls=_tls(tls_cert, tls_key, tls_client_ca),
        auth=auth,
        allow_insecure=allow_insecure,
        recover=recover,
        reflection=reflection,
        grace_s=grace,
        log_format=log,
        log_level=log_level,
    )
    try:
        bootstrap.run(_serve(options, as_json=as_json))
    except StrategyErrors as errors:
        raise CommandError(f"{strategy} does not load:\n{errors}") from errors
    except StartError as error:
        raise CommandError(f"{error}.") from error


def _tls(cert: str | None, key: str | None, client_ca: str | None) -> bootstrap.TlsFiles | None:
    if cert and key:
        return bootstrap.TlsFiles(cert, key, client_ca)
    if cert or key or client_ca:
        raise click.UsageError("TLS needs both --tls-cert and --tls-key")
    return None


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > PORT_MAX:
        raise click.BadParameter(
            f"{listen!r} is no address; write HOST:PORT, such as {DEFAULT_LISTEN}",
            param_hint="--listen",
        )
    return host.strip("[]"), int(port)


async def _serve(options: Options, *, as_json: bool) -> None:
    stop = bootstrap.stop_signal()
    bootstrap.on_hangup(lambda: None)  # what has just been read need not be read again
    running = await bootstrap.start(options)
    bootstrap.on_hangup(running.strategies.hang_up)
    try:
        if as_json:
            output.print_json_line(_as_json(running))
        else:
            _say(running)
        await stop.wait()
    finally:
        await running.stop()


def _as_json(running: Running) -> dict[str, object]:
    loaded = running.loaded
    missing = bootstrap.missing_keys(loaded)
    return {
        "event": "serving",
        "target": running.target,
        "port": int(running.target.rpartition(":")[2]),
        "strategy": loaded.file,
        "state": running.state,
        "ledger_is_new": running.ledger_is_new,
        "nobody_known": running.nobody_known,
        "layers": [
            {
                "name": layer.name,
                "models": [
                    {
                        "provider": model.provider,
                        "account": model.account,
                        "model": model.id,
                        "usable": model.absence is None,
                        "why_not": model.absence.detail if model.absence else "",
                        "credential": "missing"
                        if (model.provider, model.account) in missing
                        else "present",
                    }
                    for model in layer.models
                ],
            }
            for layer in loaded.catalog.layers
        ],
        "notices": [str(notice) for notice in loaded.notices],
        "not_yet_in_effect": [str(key) for key in loaded.not_yet_in_effect],
    }


def _say(running: Running) -> None:
    out = output.console()
    loaded = running.loaded
    out.print(output.table(("layer", "model", "billing", "ready"), _rows(loaded), out))
    for (provider, account), why in bootstrap.missing_keys(loaded).items():
        whose = provider if account == "default" else f"{provider} ({account})"
        output.say(out, f"No key for {whose}: {why}.", "yellow")
    for notice in loaded.notices:
        if notice.code != "NO_KEY":
            output.say(out, str(notice), "cyan")
    for key in loaded.not_yet_in_effect:
        output.say(out, str(key), "dim")
    if running.ledger_is_new:
        loud = f"NEW, EMPTY LEDGER in {running.state}: every quota and cap counts from zero."
        output.say(out, loud, "bold red")
    if running.nobody_known:
        output.say(out, f"{bootstrap.NOBODY_KNOWN}.", "bold yellow")
    output.say(out, f"Listening on {running.target}", "bold green")
    out.file.flush()


def _rows(loaded: Loaded) -> list[tuple[str | Text, ...]]:
    rows: list[tuple[str | Text, ...]] = []
    for layer in loaded.catalog.layers:
        for model in layer.models:
            absence = model.absence
            ready = Text(f"no: {absence.detail}", "yellow") if absence else Text("yes", "green")
            rows.append((layer.name, name_of(model), model.billing.value, ready))
    return rows
