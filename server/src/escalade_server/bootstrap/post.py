"""A worker's post: what it is told by its supervisor, and what it tells the others through it."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence

from escalade_server.api.calls import Calls
from escalade_server.api.strategies import InForce
from escalade_server.bootstrap.channel import (
    Adopted,
    AskFigures,
    Begin,
    Channel,
    Circuit,
    Follow,
    Message,
    Refused,
    Reload,
    TellFigures,
)
from escalade_server.bootstrap.reload import StrategyKeeper
from escalade_server.bootstrap.strategy import load_strategy
from escalade_server.core.breaker import Breaker
from escalade_server.engine.background import Work
from escalade_server.engine.engine import Engine
from escalade_server.engine.others import Figures, Queued
from escalade_server.stores.crew import Crew
from escalade_server.strategy.load import Loaded

FIGURES_S = 0.5
"""How long a status waits for the others'."""
LOOK_S = 0.25
"""How often a worker looks whether it has the lead now."""


class Post:
    """Owned by one event loop. Before ``man`` nothing is heard."""

    def __init__(self, channel: Channel, begin: Begin, crew: Crew) -> None:
        """Take what the worker was told first, and its hand on the locks."""
        self.crew, self.number, self.started_ms = crew, begin.number, begin.started_ms
        self.gone = asyncio.Event()
        """The supervisor has ended, or this worker cannot go on: it drains and ends."""
        self._channel, self._text = channel, begin.text
        self._asked = 0
        self._answers: dict[int, asyncio.Future[list[Figures]]] = {}
        self._works: set[asyncio.Task[None]] = set()

    # ----------------------------------------------------------------------- while it starts

    def load(self, file: str, environ: Mapping[str, str]) -> Loaded:
        """Load the strategy in force, which may be another than the file's by now."""
        return load_strategy(file, environ=environ, text=self._text)

    def once(self, work: Work) -> Work:
        """Make work of which one worker is enough: this one does it when it has the lead."""

        async def when_leading() -> None:
            while not self.crew.lead():  # noqa: ASYNC110 - a lock of the kernel has no event
                await asyncio.sleep(LOOK_S)
            await work()

        return when_leading

    # ------------------------------------------------------------------------ while it serves

    def man(self, engine: Engine, strategies: StrategyKeeper, calls: Calls) -> None:
        """Begin to hear and to tell."""
        self._engine, self._strategies, self._calls = engine, strategies, calls
        engine.health.told = self._tell_circuit
        strategies.taken = self._tell_taken
        strategies.refused = self._tell_refused
        self._start(self._hear())

    def _tell_circuit(self, key: str, state: Breaker) -> None:
        self._channel.send(Circuit(key, state))

    def _tell_taken(self, cause: str, loaded: Loaded) -> None:
        self._channel.send(Adopted(cause, loaded.text))

    def _tell_refused(self, now: InForce) -> None:
        self._channel.send(Refused(now.refused_count, now.refused_why, now.refused_ms or 0))

    async def figures(self) -> Sequence[Figures]:
        """Ask the other workers what they have in flight; see ``Others``."""
        self._asked += 1
        number = self._asked
        answer: asyncio.Future[list[Figures]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._channel.send(AskFigures(number))
        try:
            async with asyncio.timeout(FIGURES_S * 2):
                return await answer
        except TimeoutError:
            return ()
        finally:
            del self._answers[number]

    async def _hear(self) -> None:
        async for message in self._channel.messages():
            self._take(message)
        self.gone.set()

    def _take(self, message: Message) -> None:
        match message:
            case Circuit():
                self._engine.health.hear(message.key, message.state)
            case Reload():
                self._start(self._reload(message.cause))
            case Follow():
                self._start(self._follow(message.cause))
            case Refused():
                self._strategies.hear_refused(message.count, message.why, message.at_ms)
            case AskFigures():
                self._channel.send(TellFigures(message.number, [self._own()]))
            case TellFigures():
                answer = self._answers.get(message.number)
                if answer is not None and not answer.done():
                    answer.set_result(message.figures)
            case _:
                raise AssertionError(message)

    def _own(self) -> Figures:
        waiters = [
            Queued(one.agent, one.request_id, one.since_ms, one.earliest_ms, one.reason, one.rule)
            for one in self._engine.waiters
        ]
        calls = self._calls
        return Figures(self._engine.running, calls.by_agent, calls.attempts(), waiters)

    async def _reload(self, cause: str) -> None:
        await self._strategies.reload(cause)

    async def _follow(self, cause: str) -> None:
        """Do as another worker did; one that cannot makes room for one that begins so."""
        told = await self._strategies.reload(cause, follows=True)
        if not told.applied:
            self.gone.set()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
