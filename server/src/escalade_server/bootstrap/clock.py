"""What keeps the clock honest: providers' dates, asked for if need be, and people are told (T5)."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count

from escalade_server.engine.clock import SystemClock
from escalade_server.providers.http import HttpClient, date_of
from escalade_server.strategy.load import Loaded, is_loopback
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log

LOOK_S = 10.0


def witnesses_of(loaded: Loaded) -> dict[str, str]:
    """List the providers on other machines, with an address of each.

    What answers on this machine goes by this machine's clock, and is no witness of it.
    """
    return {
        found.provider: found.base_url
        for found in loaded.endpoints.values()
        if not found.missing and not is_loopback(found.base_url)
    }


def witness_of(clock: SystemClock, loaded: Loaded) -> Callable[[str, str], None]:
    """Make what providers tell the date of each answer to."""
    known = witnesses_of(loaded).keys()

    def witness(provider: str, date: str) -> None:
        if provider in known:
            clock.hear(date)

    return witness


def clock_watch(
    clock: SystemClock, in_force: Callable[[], Loaded], http: HttpClient, log: Log
) -> Callable[[], Coroutine[None, None, None]]:
    """Make the work that says when the clock is doubted, and then asks who can tell the time.

    Nobody may call a provider while every window is full: then it is asked here, without a key,
    or the old windows would be held for ever.
    """

    async def watch() -> None:
        doubted, turn = False, count()
        while True:
            await asyncio.sleep(LOOK_S)
            clock.now_ms()
            ahead_ms = clock.doubted_ms
            urls = list(witnesses_of(in_force()).values()) if ahead_ms else []
            if urls:
                clock.hear(await date_of(http, urls[next(turn) % len(urls)]))
            if bool(ahead_ms) == doubted:
                continue
            doubted = bool(ahead_ms)
            if doubted:
                log.error(names.CLOCK_DOUBTED, ahead_ms=ahead_ms, detail=DOUBT)
            else:
                log.info(names.CLOCK_TRUSTED)

    return watch


DOUBT = (
    "this machine's clock was set by more than five minutes: quota windows are held where they"
    " were, until dates of two answers of providers agree with it"
)
