"""`escalade status --watch`: a live screen on a terminal, else lines as things happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from zoneinfo import ZoneInfo

import click
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.live import Live

import escalade
from escalade.v1.operations_service_pb2 import GetStatusResponse, GetUsageReportResponse
from escalade_server.cli import feed, output
from escalade_server.cli.client import connect_async
from escalade_server.cli.report import from_proto
from escalade_server.cli.status_screen import Money, Screen
from escalade_server.report.text import cost_nanos

LOOK_S, MONEY_S = 1.0, 15.0
"""How often the state is asked for, and what it cost."""
CALL_S = 10.0


Write = Callable[[GetStatusResponse], None]
ToJson = Callable[[GetStatusResponse], dict[str, object]]


async def watch(target: str, *, as_json: bool, say: Write, to_json: ToJson) -> None:
    """Show the state of a server until it is stopped.

    ``say`` writes a state as lines, where there is no terminal; ``to_json`` for programs.

    Raises:
        EscaladeError: the first look fails; later ones are tried again.
    """
    out = output.console()
    async with connect_async(target) as client:
        first = await client.status(timeout=CALL_S)
        if as_json:
            await _to_programs(client, first, to_json)
        elif out.is_terminal:
            await _live(client, Screen(target), first, out)
        else:
            is_said = False
            async for response in feed.follow(client, "", _complain):
                if not is_said:  # no event is missed between the state and the feed
                    say(await client.status(timeout=CALL_S))
                    is_said = True
                for entry in response.entries:
                    out.print(feed.line(entry), soft_wrap=True)


async def _to_programs(
    client: escalade.AsyncClient, first: GetStatusResponse, to_json: ToJson
) -> None:
    """Write a line for the state, for each change of it, and for each event."""
    listens = asyncio.Event()

    async def look() -> None:
        known: dict[str, object] = {}
        status: GetStatusResponse | None = first
        await listens.wait()
        while True:
            if status is not None:
                data = to_json(status)
                if data | {"now": None} != known:
                    output.print_json_line({"status": data})
                    known = data | {"now": None}
            await asyncio.sleep(LOOK_S)
            status = None
            with suppress(*feed.BREAKS):
                status = await client.status(timeout=CALL_S)

    async def listen() -> None:
        try:
            async for response in feed.follow(client, "", _complain):
                listens.set()
                for entry in response.entries:
                    output.print_json_line({"event": MessageToDict(entry)})
        except escalade.RoleRequired:  # an agent has no feed, and its status all the same
            listens.set()

    await _together(look(), listen())


def _complain(sentence: str) -> None:
    click.echo(f"{sentence}.", err=True)


async def _live(
    client: escalade.AsyncClient, screen: Screen, first: GetStatusResponse, out: Console
) -> None:
    """Keep one screen as of now; it is put away at the end, and the terminal is as it was."""
    screen.status = first
    live = Live(
        console=out, screen=True, auto_refresh=False, get_renderable=lambda: screen.draw(out)
    )
    with live:
        await _together(
            _look(client, screen, live), _count(client, screen), _listen(client, screen, live)
        )


async def _together(*works: Coroutine[None, None, None]) -> None:
    """Do these at once; the first of our errors ends all, and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except* escalade.EscaladeError as errors:
        first = errors.exceptions[0]
        assert isinstance(first, escalade.EscaladeError)
        raise first from None


async def _look(client: escalade.AsyncClient, screen: Screen, live: Live) -> None:
    while True:
        live.refresh()
        await asyncio.sleep(LOOK_S)
        try:
            screen.status = await client.status(timeout=CALL_S)
            screen.trouble = ""
        except feed.BREAKS as error:
            since = "" if screen.status is None else f" since {screen.status.now.ToDatetime():%X}"
            screen.trouble = f"nothing heard{since}, trying again: {error.message}"


async def _listen(client: escalade.AsyncClient, screen: Screen, live: Live) -> None:
    try:
        async for response in feed.follow(client, feed.START, screen.say):
            for entry in response.entries:
                screen.add(entry)
            live.refresh()
    except escalade.RoleRequired:
        screen.quiet = "events are an operator's to see"


async def _count(client: escalade.AsyncClient, screen: Screen) -> None:
    """Ask what today and this month cost."""
    while True:
        try:
            month = await client.usage_report(timeout=CALL_S)
            today = f"{datetime.now(tz=ZoneInfo(month.time_zone)):%Y-%m-%d}"
            screen.month = money_of(month)
            screen.today = money_of(await client.usage_report(day=today, timeout=CALL_S))
        except escalade.EscaladeError:
            pass  # the old figures stay, and who serves none shows none
        await asyncio.sleep(MONEY_S)


def money_of(told: GetUsageReportResponse) -> Money:
    """Read what a period cost, and what it saved against the strategy's own baseline."""
    report = from_proto(told)
    cost = cost_nanos(report)
    saved = report.baselines[0][1] - cost if report.baselines and report.total.tasks else None
    return Money(cost, saved)
