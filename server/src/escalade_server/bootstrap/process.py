"""What belongs to the process: its version, its event loop, its signals, its simulator."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from importlib import metadata
from typing import TypeVar

from escalade_server.provider_simulator import Simulator, default_scenario, load_scenario

if sys.platform == "win32":
    from asyncio import new_event_loop
else:
    from uvloop import new_event_loop

T = TypeVar("T")


def version() -> str:
    """Answer the version of this distribution."""
    return metadata.version("escalade-server")


def make_simulator(scenario: str | None = None) -> Simulator:
    """Make the simulator of providers, not yet listening; ``scenario`` is the text of its file.

    Raises:
        ScenarioError: the scenario cannot be played.
    """
    return Simulator(default_scenario() if scenario is None else load_scenario(scenario))


def run(main: Coroutine[None, None, T]) -> T:
    """Run the event loop: uvloop where there is one."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def on_hangup(call: Callable[[], None]) -> None:
    """Call it at each SIGHUP, which from now on ends nothing."""
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, call)


def stop_signal(at_once: Callable[[], None] = lambda: None) -> asyncio.Event:
    """Turn the first SIGTERM or SIGINT into an event; the second ends ``at_once``, and exits."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            at_once()
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop
