"""`escalade serve`: the service itself."""

import click
from rich.text import Text

from escalade_server import bootstrap
from escalade_server.bootstrap import (
    Loaded,
    Options,
    Running,
    StartError,
    StrategyErrors,
    Workers,
)
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
    "--workers",
    type=click.IntRange(1, bootstrap.WORKERS_MAX),
    default=1,
    show_default=True,
    help="Processes that share the port and the ledger.",
)
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
@click.option("--metrics", help="Serve metrics and probes here: HOST:PORT; 9464 on loopback.")
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
    workers: int,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    auth: bootstrap.Authentication,
    allow_insecure: bool,
    recover: bool,
    metrics: str | None,
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
        metrics=metrics,
        grace_s=grace,
        log_format=log,
        log_level=log_level,
    )
    try:
        if workers > 1:
            bootstrap.run(_serve_workers(options, workers, as_json=as_json))
        else:
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


async def _serve_workers(options: Options, count: int, *, as_json: bool) -> None:
    stop = bootstrap.stop_signal(at_once=lambda: made.kill() if made is not None else None)
    bootstrap.on_hangup(lambda: None)
    made: Workers | None = None
    made = await bootstrap.start_workers(options, count)
    bootstrap.on_hangup(made.hang_up)
    is_well = True
    try:
        _show(made, as_json=as_json)
        await made.until(stop)
    finally:
        is_well = await made.stop()
    if not is_well:
        raise CommandError("A worker did not end well; its log says more.")


async def _serve(options: Options, *, as_json: bool) -> None:
    stop = bootstrap.stop_signal()
    bootstrap.on_hangup(lambda: None)  # what has just been read need not be read again
    running = await bootstrap.start(options)
    bootstrap.on_hangup(running.strategies.hang_up)
    try:
        _show(running, as_json=as_json)
        await stop.wait()
    finally:
        await running.stop()


def _show(running: Running | Workers, *, as_json: bool) -> None:
    if as_json:
        output.print_json_line(_as_json(running))
    else:
        _say(running)


def _as_json(running: Running | Workers) -> dict[str, object]:
    loaded = running.loaded
    missing = bootstrap.missing_keys(loaded)
    return {
        "event": "serving",
        "target": running.target,
        "port": int(running.target.rpartition(":")[2]),
        "strategy": loaded.file,
        "state": running.state,
        "metrics": running.metrics,
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


def _say(running: Running | Workers) -> None:
    out = output.console()
    loaded = running.loaded
    out.print(output.table(("layer", "model", "billing", "ready"), _rows(loaded), out))
    for (provider, account), why in bootstrap.missing_keys(loaded).items():
        output.say(out, output.no_key(provider, account, why), "yellow")
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
    if running.metrics:
        output.say(out, f"Metrics on http://{running.metrics}/metrics", "dim")
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
