"""`escalade demo`: an agent's day over simulated providers, through a real server."""

from __future__ import annotations

import asyncio
import io
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

import escalade
from escalade.v1.operations_service_pb2 import GetStatusResponse
from escalade_server import bootstrap
from escalade_server.bootstrap import Options, Running, StartError
from escalade_server.cli import demo_summary, output
from escalade_server.cli.demo_agent import Agent, SplicedError
from escalade_server.cli.demo_before import before
from escalade_server.cli.demo_books import Books, LayerSum, audit
from escalade_server.cli.demo_day import PROJECT, Weather, job, scenario
from escalade_server.cli.demo_screen import Screen
from escalade_server.cli.output import CommandError, Exit
from escalade_server.provider_simulator import Simulator

STRATEGY = Path(__file__).with_name("demo_strategy.yaml")
KEY = "SIMULATED_KEY"
LOOK_S = 0.2
SETTLE_S = 5.0
GRACE_S = 2.0
STOPPED = 130
"""Exit code of a command that a signal ended, as shells have it."""
LEGEND = "+ answered  > by fallback  ^ escalated  v downgraded  ($: value at list price)"
PROVIDERS = tuple(scenario().providers)


@click.command("demo")
@click.option(
    "--break",
    "broken",
    multiple=True,
    type=click.Choice(PROVIDERS),
    help="An outage of this provider, for the entire day; may be given again.",
)
@click.option(
    "--pace",
    type=click.FloatRange(0, 10),
    default=1.0,
    show_default=True,
    help="How long to pause for people; 0 does not.",
)
@output.json_option
@click.pass_context
def command(ctx: click.Context, *, broken: tuple[str, ...], pace: float, as_json: bool) -> None:
    """Show an agent's day: a real server, simulated providers, no key and no account.

    Exit code 0: every task was answered, and our books agree with the providers'.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without arrows still shows the words
    folder = Path(tempfile.mkdtemp(prefix="escalade-demo-"))
    code: int = Exit.FAILED
    try:
        code = bootstrap.run(_until_stopped(folder, broken, pace, as_json=as_json))
    except StartError as error:
        raise CommandError(f"{error}.") from error
    except SplicedError as error:
        raise CommandError(f"two texts were mixed in: {error}.") from error
    finally:
        if code == Exit.FAILED:
            click.echo(f"The server's log and ledger are kept in {folder}.", err=True)
        else:
            shutil.rmtree(folder)
    ctx.exit(code)


async def _until_stopped(
    folder: Path, broken: tuple[str, ...], pace: float, *, as_json: bool
) -> int:
    """Run the demo; a first signal ends it in order."""
    stop = bootstrap.stop_signal()
    day = asyncio.ensure_future(_day(folder, broken, pace, as_json=as_json))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((day, stopped), return_when=asyncio.FIRST_COMPLETED)
    if day.done():
        stopped.cancel()
        return day.result()
    day.cancel()
    with suppress(asyncio.CancelledError):
        await day
    click.echo("Stopped: the server and the simulated providers are down.", err=True)
    return STOPPED


async def _day(folder: Path, broken: tuple[str, ...], pace: float, *, as_json: bool) -> int:
    out = Console(quiet=True) if as_json else output.console()
    steps, loop = job(), asyncio.get_running_loop()
    out.print(Text(f"The job: read {PROJECT}, and write its documentation.", "bold"))
    was = await before(steps)
    out.print(demo_summary.before_line(was))
    simulator = Simulator(scenario(pace))
    await simulator.start()
    try:
        async with _server(folder, simulator) as running:
            out.print(
                Text(
                    f"Now the same job through Escalade, on {running.target}: providers are"
                    " simulated, all else is real."
                )
            )
            out.print(Text(LEGEND, "dim"))
            for provider in broken:
                out.print(Text(f"    ~ {provider} is down all day (--break)", "bold blue"))
            started_s = loop.time()
            async with escalade.AsyncClient(running.target) as client:
                status = await client.status()
                books = Books({layer.name: LayerSum() for layer in status.layers})
                total = sum(len(step.chores) for step in steps)
                with Screen(out, books, total) as screen:
                    screen.look(status)
                    agent = Agent(client, Weather(simulator, broken, pace), screen, books, pace)
                    looking = asyncio.ensure_future(_look(client, screen))
                    try:
                        await agent.work(steps)
                    finally:
                        looking.cancel()
                    screen.look(await _settled(client))
    finally:
        await simulator.stop()
    seconds = loop.time() - started_s
    found = audit(books, simulator.ledger())
    if as_json:
        output.print_json(demo_summary.as_json(was, books, found, seconds))
    else:
        demo_summary.show(out, books, found, STRATEGY, seconds)
    return Exit.FAILED if books.lost or found.differences else Exit.OK


@asynccontextmanager
async def _server(folder: Path, simulator: Simulator) -> AsyncIterator[Running]:
    """Serve the demo's strategy with every provider pointed at the simulator."""
    strategy = folder / "strategy.yaml"
    overrides = "".join(
        f"  {name}:\n    base_url: {simulator.provider_url(name)}\n    api_key_env: {KEY}\n"
        for name in PROVIDERS
    )
    text = STRATEGY.read_text(encoding="utf-8")
    strategy.write_text(f"{text}\nproviders:\n{overrides}", encoding="utf-8")
    options = Options(
        strategy=str(strategy),
        port=0,
        state=str(folder / "ledger.sqlite3"),
        grace_s=GRACE_S,
        log_format="json",
    )
    with (folder / "server.log").open("w", encoding="utf-8") as log:
        running = await bootstrap.start(options, environ={KEY: "simulated"}, log_stream=log)
        try:
            yield running
        finally:
            await running.stop()


async def _look(client: escalade.AsyncClient, screen: Screen) -> None:
    """Keep the bars as of now."""
    while True:
        await asyncio.sleep(LOOK_S)
        screen.look(await client.status())


async def _settled(client: escalade.AsyncClient) -> GetStatusResponse:
    """Wait until no task is open, and all is booked."""
    async with asyncio.timeout(SETTLE_S):
        while True:
            status = await client.status()
            if not status.in_flight_count:
                return status
            await asyncio.sleep(LOOK_S)
