"""All calls in flight: how many, how many bytes, which of them nobody reads, and the drain flag."""

import asyncio
from collections.abc import Mapping

from escalade.v1 import error_pb2
from escalade_server.api.outbox import Outbox
from escalade_server.api.status import Refusal
from escalade_server.core.catalog import Agent

AGENT_BUSY_MS = 1_000
"""When an agent with all its calls in flight may try again; nobody knows how long they take."""


class Call:
    """One admitted call; ``outbox`` is set once its task has started."""

    __slots__ = ("agent", "is_cut", "outbox", "size_bytes", "task", "waits")

    def __init__(self, size_bytes: int, agent: str, task: "asyncio.Task[object] | None") -> None:
        """Keep the size of its request, who calls, and the task that writes its stream."""
        self.size_bytes = size_bytes
        self.agent = agent
        self.task = task
        self.outbox: Outbox | None = None
        self.waits = False
        """It stands in the queue: the waiting room has limits of its own."""
        self.is_cut = False
        """Its reader stalled: the cancellation that arrives is ours, and must end as a status."""


class Calls:
    """Admission of calls. One instance a server, owned by its event loop."""

    def __init__(self, *, calls_max: int, bytes_max: int, stall_s: float) -> None:
        """Limit calls and bytes of requests in flight (P10), and the time of one write (C5)."""
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._stall_s = stall_s
        self._open: set[Call] = set()
        self._by_agent: dict[str, int] = {}
        self._busy = self._bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._open)

    def of(self, agent: str) -> int:
        """Count the calls in flight of one agent that do not wait."""
        return self._by_agent.get(agent, 0)

    def refusal(self, size_bytes: int, own: Agent) -> Refusal | None:
        """Say why no further call of an agent is taken now; nothing has been started then."""
        if self.draining:
            return Refusal(
                error_pb2.ERROR_REASON_DRAINING, "the server shuts down; call again elsewhere"
            )
        if self._busy >= self._calls_max:
            return Refusal(
                error_pb2.ERROR_REASON_SERVER_BUSY,
                f"{self._calls_max} calls are in flight, no more are taken now",
            )
        if own.calls_max is not None and self.of(own.name) >= own.calls_max:
            most = f"{own.calls_max} calls at once"
            return Refusal(
                error_pb2.ERROR_REASON_RATE_LIMITED,
                f"agent {own.name} may have {most}, and has them in flight",
                quotas=((f"agent/{own.name}", most),),
                retry_ms=AGENT_BUSY_MS,
            )
        if self._busy and self._bytes + size_bytes > self._bytes_max:
            return Refusal(
                error_pb2.ERROR_REASON_SERVER_BUSY,
                f"requests in flight hold {self._bytes:,} bytes; this one has {size_bytes:,},"
                f" and {self._bytes_max:,} are taken in all",
            )
        return None

    def open(self, size_bytes: int, agent: str) -> Call:
        """Count a call in."""
        call = Call(size_bytes, agent, asyncio.current_task())
        self._open.add(call)
        self._count(call, 1)
        self._idle.clear()
        return call

    def park(self, call: Call, waits: bool) -> None:  # noqa: FBT001 - the one thing that it is told
        """Note that a call waits in the queue, and holds up no other; or that it works again."""
        if call.waits is not waits and call in self._open:
            call.waits = waits
            self._count(call, -1 if waits else 1)

    def _count(self, call: Call, by: int) -> None:
        self._busy += by
        self._bytes += by * call.size_bytes
        left = self.of(call.agent) + by
        if left:
            self._by_agent[call.agent] = left
        else:
            del self._by_agent[call.agent]

    def close(self, call: Call) -> None:
        """Count a call out."""
        self._open.discard(call)
        if not call.waits:
            self._count(call, -1)
        if not self._open:
            self._idle.set()

    @property
    def by_agent(self) -> Mapping[str, int]:
        """Calls in flight that do not wait."""
        return self._by_agent

    async def idle(self) -> None:
        """Return when no call is in flight."""
        await self._idle.wait()

    def attempts(self) -> dict[str, int]:
        """Count the attempts in flight by ``Model.key``."""
        counts: dict[str, int] = {}
        for call in self._open:
            model = call.outbox.running if call.outbox is not None else None
            if model is not None:
                counts[model.key] = counts.get(model.key, 0) + 1
        return counts

    def cut_stalled(self, loop_time: float) -> int:
        """Cut the calls whose reader has not taken a message for too long (C5); answer how many."""
        cut = 0
        for call in self._open:
            outbox = call.outbox
            if outbox is None or not outbox.writing_since or call.task is None:
                continue
            if loop_time - outbox.writing_since >= self._stall_s and not call.is_cut:
                call.is_cut = True
                call.task.cancel()
                cut += 1
        return cut
