"""The real server in this process over two providers: the first plays a fault, byte by byte, and
the second is in good health.

Everything is the product's own and wired by ``bootstrap``; only its clock can be set ahead.
"""

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import escalade
from escalade_server import bootstrap
from escalade_server.bootstrap import Options, Running
from escalade_server.core.catalog import Unit
from escalade_server.core.settlement import UNCERTAIN_MS
from escalade_server.core.standing import CircuitState
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.ports import Spend
from tests.providers.raw_server import CHUNKED, Peer, RawServer, Script, serve

HEALTHY = "All is well."
STRATEGY = """\
fallback_strategy:
  layers:
    - name: first
      models:
        - provider: faulty
          model: model-1
          price: {{input: 1, output: 2}}
          monthly_cap: 100_usd
          billing: metered
      priority: 1
    - name: second
      models:
        - provider: healthy
          model: model-2
          price: {{input: 1, output: 2}}
      priority: 2
    - name: third
      models:
        - provider: faulty
          model: model-9
          price: {{input: 10, output: 20}}
      priority: 3
  failure_handling: {{on_all_layers_exhausted: fail}}
providers:
  faulty: {{base_url: "{faulty}", dialect: {dialect}, api_key_env: KEY}}
  healthy: {{base_url: "{healthy}", dialect: openai, api_key_env: KEY}}
circuit_breaker: {{failures: {failures}, open_for: 1h}}
timeouts: {{{timeouts}}}
"""


# ------------------------------------------------------------------------------------ answers


def event(value: object) -> bytes:
    """One server-sent event."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return b"data: " + data + b"\n\n"


def choice(*, finish: str | None = None, model: str = "model-1", **delta: object) -> bytes:
    """A chunk of a chat completion."""
    told = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({"model": model, "choices": [told]})


def usage(inputs: object = 7, outputs: object = 5) -> bytes:
    """The chunk with the usage, as it comes last."""
    return event({"choices": [], "usage": {"prompt_tokens": inputs, "completion_tokens": outputs}})


WORD = choice(content="Once ")
END = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
DONE = b"data: [DONE]\n\n"


def body_of(text: str, model: str = "model-1") -> bytes:
    """A whole answer in good order."""
    return choice(content=text, model=model) + END + usage() + DONE


EVENTS = b"Content-Type: text/event-stream\r\nConnection: close\r\n"


def answers(body: bytes, headers: bytes = EVENTS, status: str = "200 OK") -> Script:
    """Answer with a body of known length, in good order as far as HTTP goes."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer(body, headers=headers, status=status)

    return play


def streams(*parts: bytes, then: Callable[[Peer], object] | None = None) -> Script:
    """Stream parts, each in a read of its own, then end well, or do as told."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for part in parts:
            await peer.chunk(part)
            await asyncio.sleep(0.02)
        if then is None:
            await peer.send(b"0\r\n\r\n")
        else:
            done = then(peer)
            if asyncio.iscoroutine(done):
                await done

    return play


async def silent(peer: Peer) -> None:
    """Say nothing more until the client goes."""
    await peer.gone()


def dripping(head: bytes, drop: bytes, every_s: float) -> Script:
    """Send something small again and again until the client goes."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        if head:
            await peer.chunk(head)
        while True:
            await peer.chunk(drop)
            await asyncio.sleep(every_s)

    return play


# ------------------------------------------------------------------------------------ the world


@dataclass(slots=True)
class Upstream:
    """One server and its client; ``faulty`` and ``healthy`` know what they were asked."""

    running: Running
    client: escalade.AsyncClient
    faulty: RawServer
    healthy: RawServer
    log: io.StringIO
    told: list[escalade.Announcement] = field(default_factory=list)

    async def complete(self, **more: object) -> escalade.Answer:
        """Ask for a whole answer; what is announced goes to ``told``."""
        return await self.client.complete(
            "Why?",
            max_output_tokens=64,
            on_event=self.told.append,
            **more,  # type: ignore[arg-type]
        )

    def stream(self, *, may_restart: bool) -> escalade.AsyncStream:
        """Ask for an answer piece by piece."""
        return self.client.stream(
            "Why?",
            max_output_tokens=64,
            on_event=self.told.append,
            on_restart=_ignore if may_restart else None,
        )

    def of(self, kind: type) -> list[escalade.Announcement]:
        """What was announced of one kind."""
        return [event for event in self.told if isinstance(event, kind)]

    def alerts(self) -> list[str]:
        """Kinds of the alerts told to the caller."""
        return [e.kind for e in self.told if isinstance(e, escalade.Alert)]

    def logged(self, name: str) -> list[dict[str, object]]:
        """Lines of the log of one event."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]

    @property
    def cap(self) -> Spend:
        """What the books say of the money of the first model."""
        found = [s for s in self.running.engine.spends() if s.counter.unit is Unit.NANOS]
        assert len(found) == 1
        return found[0]

    @property
    def is_open(self) -> bool:
        """Whether the circuit of the first provider is open."""
        circuit = self.running.engine.standing().circuits.get("faulty")
        return circuit is not None and circuit.state is CircuitState.OPEN

    def leap(self, ahead: timedelta) -> None:
        """Set the clock of server and store ahead."""
        clock = self.running.engine.clock
        assert isinstance(clock, SystemClock)
        wall, ahead_ns = clock._wall_ns, int(ahead.total_seconds()) * 1_000_000_000
        origin, base, ppm, steer_at = clock._line
        clock._wall_ns = lambda: wall() + ahead_ns
        clock._line = (origin, base + ahead_ns, ppm, steer_at)

    async def settled(self) -> Spend:
        """Let the time of doubt pass, and answer the books when nothing is held any more."""
        self.leap(timedelta(milliseconds=UNCERTAIN_MS + 1_000))
        return await self.quiet()

    async def quiet(self) -> Spend:
        """Wait until nothing runs and nothing is held; answer the books."""
        for _ in range(2_000):
            if not (self.cap.held or self.running.engine.running):
                return self.cap
            await asyncio.sleep(0.01)
        raise AssertionError("something is held for ever")


def _ignore(_retracted: escalade.Retracted) -> None:
    """Take a restart as it comes."""


@asynccontextmanager
async def upstream(
    folder: Path,
    play: Script,
    *,
    dialect: str = "openai",
    timeouts: str = "",
    failures: int = 1,
    tls: ssl.SSLContext | None = None,
    url: str = "",
) -> AsyncIterator[Upstream]:
    """Serve; ``failures`` open the circuit, and ``url`` stands for another address of the first."""
    log = io.StringIO()
    async with (
        serve(play, tls) as faulty,
        serve(answers(body_of(HEALTHY, model="model-2"))) as healthy,
    ):
        strategy = folder / "strategy.yaml"
        strategy.write_text(
            STRATEGY.format(
                faulty=url.format(port=faulty.port) or faulty.url.removesuffix("/chat/completions"),
                healthy=healthy.url.removesuffix("/chat/completions"),
                dialect=dialect,
                failures=failures,
                timeouts=timeouts,
            )
        )
        told = Options(
            strategy=str(strategy), port=0, state=str(folder / "state.sqlite3"), grace_s=1.0
        )
        running = await bootstrap.start(told, environ={"KEY": "made-up"}, log_stream=log)
        try:
            async with escalade.AsyncClient(running.target, timeout=30) as client:
                made = Upstream(running, client, faulty, healthy, log)
                made.leap(_to_mid_month())
                yield made
        finally:
            await running.stop()


def _to_mid_month() -> timedelta:
    """How far it is to the middle of the next month: no window may end within a test."""
    now = datetime.now(UTC)
    return (now.replace(day=1) + timedelta(days=46)).replace(day=15, hour=12) - now
