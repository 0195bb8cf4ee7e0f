"""Tasks that a real engine drove on virtual time, and what its observers were told of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from escalade_server.core.facts import Fact, Outcome
from escalade_server.core.failure import FailureClass
from escalade_server.core.gates import Demands, Gate, OnUnmet, Quality
from escalade_server.core.rules import Rules
from escalade_server.core.standing import Balance
from escalade_server.core.task import Request, Task
from escalade_server.core.tracing import TraceContext
from escalade_server.engine.ports import Observer
from escalade_server.telemetry.attributes import Surroundings
from escalade_server.telemetry.journey import Journey
from escalade_server.telemetry.observers import Observers
from tests.core.builders import DAY, T0, request, three_layers
from tests.engine.shell import FakeCaller, LoopClock, World, fails, finish, text

CONTEXT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True)
AROUND = Surroundings(lambda reason: reason.name, lambda _model: ("models.test", 443))
WISH = Quality(
    Demands(frozenset({Gate.PATTERN}), literals=("Hello",)),
    escalations_max=2,
    on_unmet=OnUnmet.DELIVER,
)
_CLASSES = [cls for cls in FailureClass if cls is not FailureClass.CANCELLED]


@dataclass
class Recorder:
    """Keeps everything that an engine tells its observers."""

    journeys: dict[str, Journey] = field(default_factory=dict)

    def fact(self, task_id: str, request: Request, fact: Fact, now_ms: int) -> None:
        self._of(task_id, request).told.append((fact, now_ms))

    def ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        self._of(task_id, request).outcome = outcome

    def _of(self, task_id: str, request: Request) -> Journey:
        return self.journeys.setdefault(task_id, Journey(task_id, request))


class Drawn:
    """Task ids as they are drawn, but from a seed."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def task_id(self) -> str:
        return f"{self._draw.getrandbits(128):032x}"

    @staticmethod
    def jitter_ms(limit_ms: int) -> int:
        return limit_ms // 2


def watched(world: World, *observers: Observer) -> World:
    """Have more observers watch a world."""
    world.engine.observer = Observers((world.observer, *observers))
    return world


def bumpy() -> World:
    """A world in which a task meets a 429, a broken stream and an escalation, then an answer."""
    world = World(three_layers())
    world.providers.scripts = {
        "mini": [[0.01, fails(FailureClass.QUOTA_WINDOW)]],
        "flash": [[0.01, *text("Hal", "f"), 0.01, fails(FailureClass.OUTAGE)]],
    }
    return world


def wild(seed: int) -> tuple[World, Sequence[Request]]:
    """A world of trouble, drawn from a seed, and what is asked in it."""
    draw = random.Random(seed)
    world = World(three_layers(Rules(quality=WISH if draw.random() < 0.4 else Quality())))
    world.engine.entropy = Drawn(draw)
    for name in [model.id for model in world.engine.catalog.models]:
        scripts = []
        for _ in range(draw.randrange(4)):
            said = text(*draw.choice((("Hello",), ("Hal", "f"), ())))
            broken = draw.random() < 0.7
            end = fails(draw.choice(_CLASSES)) if broken else finish()
            scripts.append([0.01, *said, 0.01, end])
        world.providers.scripts[name] = scripts
    for provider, name in (("openai", "mini"), ("google", "flash")):
        if draw.random() < 0.3:
            key = f"requests/day:{provider}/default/{name}"
            world.store.balances[key] = Balance("w", 50, 0, DAY)
    kinds = ("parse", "debug", "architecture")
    asked = [
        replace(
            request(task=Task(draw.choice(kinds), files=draw.choice((0, 10)), tokens=0)),
            id=f"r{number}",
            agent=draw.choice(("", "bot")),
            ends_ms=T0 + draw.choice((60_000, DAY)),
            trace=draw.choice((None, CONTEXT, replace(CONTEXT, sampled=False))),
        )
        for number in range(4)
    ]
    return world, asked


async def played(world: World, asked: Sequence[Request]) -> list[FakeCaller]:
    """Run tasks one after another, each with a minute from its start."""
    callers = []
    for each in asked:
        now_ms = LoopClock().now_ms()
        due = replace(each, deadline_ms=now_ms + 60_000, ends_ms=now_ms + each.ends_ms - T0)
        callers.append(await world.ask(due))
    return callers
