"""The agent of `escalade demo`: does the job through the SDK, as any agent would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import escalade
from escalade.v1.operations_service_pb2 import CircuitState, GetStatusResponse
from escalade_server.cli.demo_books import Books, Done
from escalade_server.cli.demo_day import TURN_TEXT, Chore, Step, Turn, Weather

TASK_TIMEOUT_S = 30.0
NO_WAIT = escalade.Constraints(may_wait=False)
"""Nobody stays for tomorrow's quota: what cannot be done now is said now."""
BETWEEN_TASKS_S = 0.1
READING_S = 1.5
"""Time to read what is explained for the first time."""
LOOK_S = 0.2
PROBE_LOOKS = 50


class SplicedError(Exception):
    """The pieces of a stream do not add up to its answer: two texts were mixed."""


class Watcher(Protocol):
    """Whoever shows the job."""

    def step(self, number: int, of: int, step: Step) -> None:
        """A step begins."""

    def turn(self, text: str) -> None:
        """Something happens to a provider."""

    def told(self, done: Done) -> bool:
        """A task ended; True if it was of a kind not seen before, and takes time to read."""

    def writing(self, text: str) -> None:
        """Text of a stream, as it stands now."""

    def broke(self, event: escalade.Retracted, text: str) -> None:
        """The text so far is void."""


@dataclass(slots=True)
class Agent:
    """Does one job."""

    client: escalade.AsyncClient
    weather: Weather
    watcher: Watcher
    books: Books
    pace: float
    """1 is for people, 0 does not wait at all."""
    number: int = 0

    async def work(self, job: tuple[Step, ...]) -> None:
        """Do every step of the job; a task without an answer does not stop the others."""
        for place, step in enumerate(job, 1):
            self.watcher.step(place, len(job), step)
            chores = iter(step.chores)
            async with asyncio.TaskGroup() as group:
                for _ in range(step.at_once):
                    group.create_task(self._take(chores))
            await self._rest(BETWEEN_TASKS_S)

    async def _take(self, chores: Iterator[Chore]) -> None:
        for chore in chores:
            if chore.turn is not None and self.weather.turn(chore.turn):
                self.watcher.turn(TURN_TEXT[chore.turn])
                if chore.turn is Turn.DEEPSEEK_BACK:
                    await self._until_probed("deepseek")
                await self._rest(READING_S / 2)
            done = await self.do(chore)
            self.books.add(done)
            is_news = self.watcher.told(done)
            await self._rest(READING_S if is_news else BETWEEN_TASKS_S)

    async def do(self, chore: Chore) -> Done:
        """Have one task answered."""
        self.number += 1
        number = self.number
        events: list[escalade.Announcement] = []
        task = escalade.Task(chore.type, file_count=chore.files, tokens=chore.tokens)
        try:
            if chore.streamed:
                answer = await self._stream(chore, task, events.append)
            else:
                answer = await self.client.complete(
                    chore.prompt,
                    task=task,
                    max_output_tokens=chore.tokens_max,
                    timeout=TASK_TIMEOUT_S,
                    constraints=NO_WAIT,
                    on_event=events.append,
                )
        except escalade.EscaladeError as error:
            return Done(number, chore, tuple(events), error=error)
        return Done(number, chore, tuple(events), answer=answer)

    async def _stream(
        self,
        chore: Chore,
        task: escalade.Task,
        on_event: Callable[[escalade.Announcement], None],
    ) -> escalade.Answer:
        so_far = ""

        def restart(event: escalade.Retracted) -> None:
            nonlocal so_far
            self.watcher.broke(event, so_far)
            so_far = ""

        async with self.client.stream(
            chore.prompt,
            task=task,
            max_output_tokens=chore.tokens_max,
            timeout=TASK_TIMEOUT_S,
            constraints=NO_WAIT,
            on_event=on_event,
            on_restart=restart,
        ) as stream:
            async for piece in stream.text:
                so_far += piece
                self.watcher.writing(so_far)
            answer = await stream.answer()
        self.weather.calm()
        if so_far != answer.text:
            raise SplicedError(chore.title)
        return answer

    async def _until_probed(self, provider: str) -> None:
        """Wait until an open circuit of a provider lets a call through, as an operator might."""
        for _ in range(PROBE_LOOKS):
            if not _is_open(await self.client.status(), provider):
                return
            await asyncio.sleep(LOOK_S)

    async def _rest(self, seconds: float) -> None:
        if self.pace:
            await asyncio.sleep(seconds * self.pace)


def _is_open(status: GetStatusResponse, provider: str) -> bool:
    return any(
        model.target.provider == provider and model.circuit == CircuitState.CIRCUIT_STATE_OPEN
        for layer in status.layers
        for model in layer.models
    )
