"""`escalade simulate-providers`: providers that answer, refuse and break as scripted."""

import os
from pathlib import Path

import click

from escalade_server import bootstrap
from escalade_server.bootstrap import ScenarioError
from escalade_server.cli import output
from escalade_server.cli.output import CommandError


@click.command("simulate-providers")
@click.option("--scenario", type=click.Path(), help="What they do; default: a plain month.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="0: any free one.")
@output.json_option
def command(*, scenario: str | None, port: int, as_json: bool) -> None:
    """Simulate model providers on this machine until SIGTERM or SIGINT."""
    try:
        text = None if scenario is None else Path(scenario).read_text(encoding="utf-8")
        bootstrap.run(_simulate(text, port, as_json=as_json))
    except ScenarioError as error:
        raise CommandError(f"{scenario} cannot be played:\n{error}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{scenario}: {error}.") from error
    except OSError as error:
        why = os.strerror(error.errno or 0)
        if error.filename is not None:
            raise CommandError(f"{error.filename} cannot be read: {why}.") from error
        raise CommandError(f"cannot listen on port {port}: {why}; 0 is any free one.") from error


async def _simulate(scenario: str | None, port: int, *, as_json: bool) -> None:
    stop = bootstrap.stop_signal()
    simulator = bootstrap.make_simulator(scenario)
    base_url = await simulator.start(port=port)
    try:
        urls = {name: simulator.provider_url(name) for name in simulator.scenario.providers}
        if as_json:
            output.print_json_line({"event": "simulating", "base_url": base_url, "providers": urls})
        else:
            out = output.console()
            rows = list(urls.items())
            out.print(output.table(("provider", "base_url for `providers:`"), rows, out))
            output.say(out, f"The providers' own count: {base_url}/_simulator/ledger")
            out.file.flush()
        await stop.wait()
    finally:
        await simulator.stop()
