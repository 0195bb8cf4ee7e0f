"""Both clients behind one synchronous face, so that each test is written once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import escalade
from escalade import testing

OnEvent = Callable[[escalade.Announcement], None]
OnRestart = Callable[[escalade.Retracted], None]


@dataclass(slots=True)
class Seen:
    """What a user saw of one call."""

    pieces: list[str] = field(default_factory=list)
    events: list[escalade.Event] = field(default_factory=list)
    answer: escalade.Answer | None = None
    error: escalade.EscaladeError | None = None
    again: escalade.EscaladeError | None = None
    snapshot: escalade.Snapshot = field(default_factory=escalade.Snapshot)

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


class Face(Protocol):
    def complete(
        self,
        server: testing.Server,
        prompt: str = "Why?",
        *,
        on_event: OnEvent | None = None,
        timeout: float = 10.0,
        request_id: str | None = None,
    ) -> escalade.Answer: ...

    def stream(
        self,
        server: testing.Server,
        *,
        on_event: OnEvent | None = None,
        on_restart: OnRestart | None = None,
        leave_after: int | None = None,
    ) -> Seen:
        """Read events, to the end or until so many have come."""

    def text(
        self,
        server: testing.Server,
        *,
        on_restart: OnRestart | None = None,
        token: str | None = None,
    ) -> Seen:
        """Read the text, then ask for the answer."""

    def status(self, server: testing.Server) -> str: ...


class SyncFace:
    def complete(
        self,
        server: testing.Server,
        prompt: str = "Why?",
        *,
        on_event: OnEvent | None = None,
        timeout: float = 10.0,
        request_id: str | None = None,
    ) -> escalade.Answer:
        with server.client() as client:
            return client.complete(
                prompt, on_event=on_event, timeout=timeout, request_id=request_id
            )

    def stream(
        self,
        server: testing.Server,
        *,
        on_event: OnEvent | None = None,
        on_restart: OnRestart | None = None,
        leave_after: int | None = None,
    ) -> Seen:
        seen = Seen()
        with server.client() as client:
            stream = client.stream("Why?", on_event=on_event, on_restart=on_restart)
            try:
                with stream:
                    for event in stream:
                        seen.events.append(event)
                        if len(seen.events) == leave_after:
                            break
                stream.answer()
            except escalade.EscaladeError as error:
                seen.error = error
            seen.snapshot = stream.snapshot
        return seen

    def text(
        self,
        server: testing.Server,
        *,
        on_restart: OnRestart | None = None,
        token: str | None = None,
    ) -> Seen:
        seen = Seen()
        with (
            server.client(token=token) as client,
            client.stream("Why?", on_restart=on_restart) as stream,
        ):
            try:
                for piece in stream.text:
                    seen.pieces.append(piece)
                seen.answer = stream.answer()
            except escalade.EscaladeError as error:
                seen.error = error
                try:
                    stream.answer()
                except escalade.EscaladeError as again:
                    seen.again = again
            seen.snapshot = stream.snapshot
        return seen

    def status(self, server: testing.Server) -> str:
        with server.client() as client:
            return client.status().version


class AsyncFace:
    def complete(
        self,
        server: testing.Server,
        prompt: str = "Why?",
        *,
        on_event: OnEvent | None = None,
        timeout: float = 10.0,
        request_id: str | None = None,
    ) -> escalade.Answer:
        async def call() -> escalade.Answer:
            async with server.async_client() as client:
                return await client.complete(
                    prompt, on_event=on_event, timeout=timeout, request_id=request_id
                )

        return asyncio.run(call())

    def stream(
        self,
        server: testing.Server,
        *,
        on_event: OnEvent | None = None,
        on_restart: OnRestart | None = None,
        leave_after: int | None = None,
    ) -> Seen:
        async def call() -> Seen:
            seen = Seen()
            async with server.async_client() as client:
                stream = client.stream("Why?", on_event=on_event, on_restart=on_restart)
                try:
                    async with stream:
                        async for event in stream:
                            seen.events.append(event)
                            if len(seen.events) == leave_after:
                                break
                    await stream.answer()
                except escalade.EscaladeError as error:
                    seen.error = error
                seen.snapshot = stream.snapshot
            return seen

        return asyncio.run(call())

    def text(
        self,
        server: testing.Server,
        *,
        on_restart: OnRestart | None = None,
        token: str | None = None,
    ) -> Seen:
        async def call() -> Seen:
            seen = Seen()
            async with (
                server.async_client(token=token) as client,
                client.stream("Why?", on_restart=on_restart) as stream,
            ):
                try:
                    async for piece in stream.text:
                        seen.pieces.append(piece)
                    seen.answer = await stream.answer()
                except escalade.EscaladeError as error:
                    seen.error = error
                    try:
                        await stream.answer()
                    except escalade.EscaladeError as again:
                        seen.again = again
                seen.snapshot = stream.snapshot
            return seen

        return asyncio.run(call())

    def status(self, server: testing.Server) -> str:
        async def call() -> str:
            async with server.async_client() as client:
                return (await client.status()).version

        return asyncio.run(call())
