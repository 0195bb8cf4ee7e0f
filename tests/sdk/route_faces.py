"""Both kinds of route behind one synchronous face, so that each test is written once."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import httpx

import escalade
from escalade import testing

Told = escalade.OpenAttempt | escalade.AsyncOpenAttempt
Given = escalade.Choice | escalade.AsyncChoice
Call = Callable[[Told, Given], None]
"""What the caller does inside the block of an attempt; it may raise."""


USED = escalade.Usage(1_000, 200, cached_input_tokens=100)
ONE: testing.Reply = [testing.assessed(), testing.selected(), testing.finished(cost_nanos=5)]
TWO: testing.Reply = [
    testing.selected("a"),
    testing.fallback("a", "b"),
    testing.selected("b", attempt=2),
    testing.finished("b", attempt=2),
]


def well(attempt: Told, _: Given) -> None:
    attempt.ok(USED, finish_reason="stop")


def raising(error: BaseException) -> Call:
    def call(_: Told, __: Given) -> None:
        raise error

    return call


def first(error: BaseException) -> Call:
    """Fail the first attempt, and let the next be well."""

    def call(attempt: Told, choice: Given) -> None:
        if choice.number == 1:
            raise error
        well(attempt, choice)

    return call


def refused(status: int, body: bytes = b"", **headers: str) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://provider")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(status, headers=named, content=body, request=request)
    return httpx.HTTPStatusError("no", request=request, response=response)


@dataclass(slots=True)
class Walked:
    """What a user saw of one route."""

    choices: list[Given] = field(default_factory=list)
    attempts: list[Told] = field(default_factory=list)
    events: list[escalade.Announcement] = field(default_factory=list)
    result: escalade.Answer | None = None
    has_report: bool = False
    error: BaseException | None = None

    def models(self) -> list[str]:
        return [choice.model for choice in self.choices]

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


class RouteFace(Protocol):
    def walk(
        self,
        server: testing.Server,
        call: Call | None,
        *,
        leave_after: int | None = None,
        task: escalade.Task | str = "debug",
        timeout: float = 10.0,
        pause_s: float = 0.0,
        on_event: Callable[[escalade.Announcement], None] | None = None,
    ) -> Walked:
        """Go through a route; ``call`` None opens no block, ``leave_after`` leaves the loop."""

    def plan(self, server: testing.Server, task: escalade.Task | str) -> escalade.Plan: ...


class SyncRouteFace:
    def walk(
        self,
        server: testing.Server,
        call: Call | None,
        *,
        leave_after: int | None = None,
        task: escalade.Task | str = "debug",
        timeout: float = 10.0,
        pause_s: float = 0.0,
        on_event: Callable[[escalade.Announcement], None] | None = None,
    ) -> Walked:
        seen = Walked()
        with server.client() as client:
            route = client.route(task, timeout=timeout, on_event=on_event)
            try:
                with route:
                    for choice in route:
                        seen.choices.append(choice)
                        if call is not None:
                            with choice.attempt() as attempt:
                                seen.attempts.append(attempt)
                                time.sleep(pause_s)
                                call(attempt, choice)
                        if len(seen.choices) == leave_after:
                            break
            except Exception as error:  # noqa: BLE001 - shown to the test
                seen.error = error
        seen.events, seen.result = route.events, route.result
        seen.has_report = route.report is not None
        return seen

    def plan(self, server: testing.Server, task: escalade.Task | str) -> escalade.Plan:
        with server.client() as client:
            return client.plan(task)


class AsyncRouteFace:
    def walk(
        self,
        server: testing.Server,
        call: Call | None,
        *,
        leave_after: int | None = None,
        task: escalade.Task | str = "debug",
        timeout: float = 10.0,
        pause_s: float = 0.0,
        on_event: Callable[[escalade.Announcement], None] | None = None,
    ) -> Walked:
        async def walk() -> Walked:
            seen = Walked()
            async with server.async_client() as client:
                route = client.route(task, timeout=timeout, on_event=on_event)
                try:
                    async with route:
                        async for choice in route:
                            seen.choices.append(choice)
                            if call is not None:
                                async with choice.attempt() as attempt:
                                    seen.attempts.append(attempt)
                                    await asyncio.sleep(pause_s)
                                    call(attempt, choice)
                            if len(seen.choices) == leave_after:
                                break
                except Exception as error:  # noqa: BLE001 - shown to the test
                    seen.error = error
            seen.events, seen.result = route.events, route.result
            seen.has_report = route.report is not None
            return seen

        return asyncio.run(walk())

    def plan(self, server: testing.Server, task: escalade.Task | str) -> escalade.Plan:
        async def plan() -> escalade.Plan:
            async with server.async_client() as client:
                return await client.plan(task)

        return asyncio.run(plan())
