"""Calls to a simulator as a vendor's client makes them, and what came of them on the wire."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    ProviderScript,
    Scenario,
    Simulator,
)

KEY = {"Authorization": "Bearer sk-made-up"}
ANTHROPIC_KEY = {"x-api-key": "sk-ant-made-up", "anthropic-version": "2023-06-01"}
GOOGLE_KEY = {"x-goog-api-key": "AIza-made-up"}
ASKED = [{"role": "user", "content": "Why?"}]
STREAMING = "streamGenerateContent?alt=sse"
PATIENT_S = 20.0
QUIET_S = 0.4
"""After this long without a byte a client that expects silence leaves."""


@dataclass
class Reply:
    """What a client got."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    end: str = "eof"
    """`eof`, `reset` (TCP), `truncated` (an orderly end in the middle) or `silent`."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def frames(self) -> list[str]:
        events = self.body.decode().replace("\r\n", "\n").split("\n\n")
        return [event.removeprefix("data: ") for event in events if event.startswith("data: ")]

    @property
    def chunks(self) -> list[Any]:
        return [json.loads(frame) for frame in self.frames if frame != "[DONE]"]

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Named events and their data, as Anthropic tells them."""
        found = [line.split("\n", 1) for line in self.body.decode().split("\n\n") if line]
        return [
            (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
            for name, data in found
        ]

    @property
    def text(self) -> str:
        return "".join(self.of_deltas("content"))

    def of_deltas(self, name: str) -> list[str]:
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", ())]
        return [choice["delta"].get(name) or "" for choice in choices]

    @property
    def finish(self) -> list[str]:
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", ())]
        return [c["finish_reason"] for c in choices if c["finish_reason"]]


class Caller:
    """A client of one simulator."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.session = session

    async def chat(
        self,
        provider: str = "openai",
        model: str = "m",
        *,
        headers: Mapping[str, str] = KEY,
        quiet_s: float = PATIENT_S,
        bytes_max: int = 1_000_000,
        body: bytes | None = None,
        **request: object,
    ) -> Reply:
        request = {"model": model, "messages": [{"role": "user", "content": "Why?"}]} | request
        sent = json.dumps(request).encode() if body is None else body
        return await self.post(
            f"/{provider}/v1/chat/completions", sent, headers, quiet_s=quiet_s, bytes_max=bytes_max
        )

    async def message(
        self,
        provider: str = "anthropic",
        model: str = "m",
        *,
        headers: Mapping[str, str] = ANTHROPIC_KEY,
        quiet_s: float = PATIENT_S,
        **request: object,
    ) -> Reply:
        request = {"model": model, "max_tokens": 4096, "messages": ASKED} | request
        sent = json.dumps(request).encode()
        return await self.post(f"/{provider}/v1/messages", sent, headers, quiet_s=quiet_s)

    async def generate(
        self,
        provider: str = "google",
        model: str = "m",
        *,
        method: str = "generateContent",
        headers: Mapping[str, str] = GOOGLE_KEY,
        quiet_s: float = PATIENT_S,
        **request: object,
    ) -> Reply:
        request = {"contents": [{"role": "user", "parts": [{"text": "Why?"}]}]} | request
        path = f"/{provider}/v1beta/models/{model}:{method}"
        return await self.post(path, json.dumps(request).encode(), headers, quiet_s=quiet_s)

    async def home(self, provider: str, *, stream: bool, quiet_s: float = PATIENT_S) -> Reply:
        """A call in the dialect that the provider speaks at home."""
        if provider == "google":
            method = STREAMING if stream else "generateContent"
            return await self.generate(method=method, quiet_s=quiet_s)
        if provider == "anthropic":
            return await self.message(stream=stream, quiet_s=quiet_s)
        return await self.chat(provider, stream=stream, quiet_s=quiet_s)

    async def post(
        self,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] = KEY,
        *,
        quiet_s: float = PATIENT_S,
        bytes_max: int = 1_000_000,
    ) -> Reply:
        reply = Reply()
        try:
            async with self.session.post(
                self.simulator.base_url + path,
                data=io.BytesIO(body),
                headers={"Content-Type": "application/json", **headers},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(sock_read=quiet_s),
            ) as response:
                reply.status, reply.headers = response.status, response.headers
                async for block in response.content.iter_any():
                    reply.body += block
                    if len(reply.body) > bytes_max:
                        reply.end = "endless"
                        break
        except TimeoutError:
            reply.end = "silent"
        except aiohttp.ClientPayloadError as error:
            reset = "ConnectionResetError" in str(error)  # the only place where it is told
            reply.end = "reset" if reset else "truncated"
        except aiohttp.ClientOSError:
            reply.end = "reset"
        except aiohttp.ServerDisconnectedError:
            reply.end = "truncated"
        return reply

    async def get(self, path: str, headers: Mapping[str, str] = KEY) -> Any:
        async with self.session.get(self.simulator.base_url + path, headers=headers) as response:
            return await response.json()


@asynccontextmanager
async def playing(simulator: Simulator) -> AsyncIterator[Caller]:
    """A running simulator and a client of it."""
    await simulator.start()
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Caller(simulator, session)
    finally:
        await simulator.stop()


def one_model(script: ModelScript, provider: str = "openai", model: str = "m") -> Simulator:
    """A simulator of a single model."""
    return Simulator(Scenario(providers={provider: ProviderScript(models={model: script})}))


def faulty(kind: FaultKind, provider: str = "openai", *, after_chunks: int = 1) -> Simulator:
    """A simulator of a single model with a single fault, always."""
    fault = Fault(kind=kind, after_chunks=after_chunks)
    return one_model(ModelScript(text="one two three four ", faults=(fault,)), provider)


async def settled(condition: Any) -> None:
    """Waits until the server's side has seen what the client did."""
    async with asyncio.timeout(PATIENT_S):
        while not condition():  # noqa: ASYNC110  (there is no event across a socket)
            await asyncio.sleep(0.005)
