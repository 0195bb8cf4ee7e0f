"""Tasks that wait: with patience, before layers that are full."""

from dataclasses import replace

from escalade_server.core.commands import Announce, Queue
from escalade_server.core.facts import Waiting
from escalade_server.core.rules import Rules
from escalade_server.core.standing import Standing
from escalade_server.core.task import Constraints, Request, Task
from tests.core.builders import DAY, request, three_layers
from tests.core.play import FREE_FULL, Play, full

HOUR_MS = 3_600_000
FREE = Constraints(free_only=True)
PREMIUM_SPENT = full("nanos/month:premium", spent=5_000_000_000)
HARD = Task(type="architecture", files=10, tokens=50_000)


def patient(
    *, limits: Constraints = FREE, task: Task | None = None, ends_ms: int = DAY + HOUR_MS
) -> Request:
    return replace(request(task=task, constraints=limits), ends_ms=ends_ms)


def waiting(
    asked: Request | None = None, rules: Rules | None = None, standing: Standing = FREE_FULL
) -> Play:
    play = Play(three_layers(rules), asked or patient())
    play.start(standing)
    return play


def queued(play: Play) -> list[Waiting]:
    return [command.waiting for command in play.log if isinstance(command, Queue)]


def told(play: Play) -> list[Waiting]:
    return [c.fact for c in play.log if isinstance(c, Announce) and isinstance(c.fact, Waiting)]
