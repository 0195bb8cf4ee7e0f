"""`escalade watch`: the event feed of a running server, line by line as it comes."""

import asyncio

import click
from google.protobuf.json_format import MessageToDict

import escalade
from escalade.v1.operations_service_pb2 import FeedKind
from escalade_server.cli import feed, output
from escalade_server.cli.client import DEFAULT_TARGET, connect_async, refused
from escalade_server.cli.output import CommandError

KINDS = tuple(
    name.removeprefix("FEED_KIND_").lower().replace("_", "-")
    for name in FeedKind.DESCRIPTOR.values_by_name
    if not name.endswith("UNSPECIFIED")
)


@click.command("watch")
@click.option("--target", default=DEFAULT_TARGET, show_default=True, help="Where the server is.")
@click.option("--since", metavar="CURSOR", help="Begin after this entry, or at the `start`.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only these kinds.")
@click.option("--layer", "layers", multiple=True, metavar="NAME", help="Only these layers.")
@output.json_option
def command(
    *,
    target: str,
    since: str | None,
    kinds: tuple[str, ...],
    layers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show escalations, fallbacks, alerts, cooldowns, waits and reports as they come.

    A watch that breaks off goes on by itself where it was, until it is stopped.
    """
    wanted = [FeedKind.Value(f"FEED_KIND_{kind.upper().replace('-', '_')}") for kind in kinds]
    try:
        asyncio.run(_watch(target, since or "", wanted, layers, as_json=as_json))
    except KeyboardInterrupt:
        return
    except escalade.CursorExpired as error:
        raise CommandError(f"{error.message}.") from error
    except escalade.EscaladeError as error:
        raise refused(error, target) from error


async def _watch(
    target: str,
    since: str,
    kinds: list[FeedKind.ValueType],
    layers: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    out = output.console()

    def told(sentence: str) -> None:
        click.echo(f"{sentence}.", err=True)

    is_told = as_json or not out.is_terminal
    async with connect_async(target) as client:
        async for response in feed.follow(client, since, told, kinds=kinds, layers=layers):
            if not is_told:
                is_told = True
                told(f"Watching {target}: what happens is told here, until Ctrl+C")
            for entry in response.entries:
                if as_json:
                    output.print_json_line(MessageToDict(entry))
                else:
                    out.print(feed.line(entry), soft_wrap=True)
