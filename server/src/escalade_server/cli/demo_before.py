"""The job without Escalade: the same calls to one free model, made directly, until one is refused.

Measured, not told: real HTTP to providers of their own, which nobody else has used that day.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

from escalade_server.cli.demo_day import FREE_MODEL, Chore, Step, scenario
from escalade_server.provider_simulator import Simulator

TIMEOUT_S = 10.0
OK = 200
HEADERS = {"authorization": "Bearer simulated", "content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Before:
    """How far the job came; ``died_at`` is the call that was refused, None if none was."""

    model: str
    steps: int
    total: int
    calls: int
    died_at: int | None = None
    step: int = 0
    status: int = 0
    message: str = ""


async def before(job: tuple[Step, ...]) -> Before:
    """Do the job on the one free model alone."""
    simulator = Simulator(scenario())
    await simulator.start()
    try:
        return await asyncio.to_thread(_work, simulator.provider_url(FREE_MODEL[0]), job)
    finally:
        await simulator.stop()


def _work(url: str, job: tuple[Step, ...]) -> Before:
    provider, model = FREE_MODEL
    address = urlsplit(url)
    total = sum(len(step.chores) for step in job)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
    calls = 0
    try:
        for place, step in enumerate(job, 1):
            for chore in step.chores:
                calls += 1
                status, message = _ask(connection, f"{address.path}/chat/completions", chore)
                if status != OK:
                    name = f"{provider}/{model}"
                    return Before(name, len(job), total, calls, calls, place, status, message)
    finally:
        connection.close()
    return Before(f"{provider}/{model}", len(job), total, calls)


def _ask(connection: HTTPConnection, path: str, chore: Chore) -> tuple[int, str]:
    """Ask once, as a plain client does; the first sentence of the error, if it is one."""
    body = {"model": FREE_MODEL[1], "messages": [{"role": "user", "content": chore.prompt}]}
    connection.request("POST", path, json.dumps(body), HEADERS)
    response = connection.getresponse()
    told = response.read()
    if response.status == OK:
        return OK, ""
    try:
        words = str(json.loads(told)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        words = told.decode(errors="replace")
    return response.status, words.partition(". ")[0]
