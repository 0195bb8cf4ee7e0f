"""The waiting room: who waits for capacity, in what order they look again, and how fast (R22).

Rules of the file:
1. A waiter holds no reservation. Its turn is only a look: its cascade walks again, and either
   reserves something, which ends its wait, or waits on with a new earliest instant.
2. Fair between agents, oldest first within one: start-time fair queueing with one unit a turn
   (Goyal, Vin and Cheng, SIGCOMM 1996), so an agent with a thousand waiters delays no other.
3. Turns are paced and begin a random moment after the instant, so that a window that opens for
   hundreds of tasks, on several replicas, is not stormed (T11).
"""

import asyncio
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from escalade_server.core.standing import VerdictClass
from escalade_server.engine.ports import Clock, Entropy

TURNS_PER_S = 100
"""Waits that may end in a second, after a first burst."""
BURST = 16
JITTER_MS = 250
LOOKS_AT_ONCE = 64
"""Looks in one go, before the event loop serves others again."""
LONGEST_MS = 60_000
"""The wall clock may jump ahead, as after a sleep: it is looked at this often (T4)."""
OVERDUE_MS = 1_000
"""So late no timer is: the wall clock has jumped past its instant."""
GIVEN_BACK_S = 0.25
"""What is given back in this time is looked for in one go."""
FULL = 1_000
"""One turn in thousandths: what the pace earns in a ms is a fraction of one."""


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """How many may wait, and what their requests may weigh together."""

    waiters_max: int = 10_000
    agent_waiters_max: int = 1_000
    connection_waiters_max: int = 250
    """A quarter of the calls that a connection carries: the others need not wait (P7)."""
    bytes_max: int = 256 << 20


class Cancellable(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Do it not."""
        ...


Later = Callable[[float, Callable[[], None]], Cancellable]
"""Does a call after some seconds."""


def _on_loop(delay_s: float, call: Callable[[], None]) -> Cancellable:
    return asyncio.get_running_loop().call_later(delay_s, call)


class RoomFullError(Exception):
    """Nobody more may wait; the message says by which limit."""


@dataclass(slots=True, eq=False)
class Waiter:
    """One task that waits. Its owner keeps it, and gives it back to ``leave``."""

    agent: str
    request_id: str
    since_ms: int
    """When its task first began to wait; its place survives a broken stream (P8)."""
    size_bytes: int
    look: Callable[[], None]
    """Its turn: walk again. It leaves the room meanwhile, or is put off, or keeps its place."""
    earliest_ms: int = 0
    reason: VerdictClass = VerdictClass.RATE
    rule: str = ""
    connection: str = ""

    def __lt__(self, other: "Waiter") -> bool:
        """Oldest first; of two as old, by request id, the same on every replica."""
        return (self.since_ms, self.request_id) < (other.since_ms, other.request_id)


@dataclass(slots=True)
class _Line:
    """The waiters of one agent, oldest first, and its place in virtual time."""

    waiters: list[Waiter] = field(default_factory=list)
    served: int = 0


class WaitingRoom:
    """Owned by one event loop."""

    def __init__(
        self,
        clock: Clock,
        entropy: Entropy,
        limits: RoomLimits | None = None,
        later: Later = _on_loop,
    ) -> None:
        """Open an empty room; ``later`` is the event loop's, but in a simulation."""
        self._clock, self._entropy, self._later = clock, entropy, later
        self._limits = limits or RoomLimits()
        self._lines: dict[str, _Line] = {}
        self._by_connection: dict[str, int] = {}
        self._count = self._bytes = 0
        self._served = 0
        """Virtual time: the share of the agent served last."""
        self._timer: Cancellable | None = None
        self._given_back: Cancellable | None = None
        self._timer_ms = 0
        self._tokens_milli = BURST * FULL
        self._filled_ms = clock.now_ms()

    def __len__(self) -> int:
        """How many wait."""
        return self._count

    def __contains__(self, waiter: Waiter) -> bool:
        """Tell whether one waits here."""
        line = self._lines.get(waiter.agent)
        return line is not None and waiter in line.waiters

    def __iter__(self) -> Iterator[Waiter]:
        """Everyone who waits, in the order in which they would go if all could."""
        heads = dict.fromkeys(self._lines, 0)
        shares = {agent: max(line.served, self._served) for agent, line in self._lines.items()}
        while heads:
            agent = min(heads, key=lambda name: (shares[name], self._at(name, heads[name])))
            yield self._at(agent, heads[agent])
            heads[agent] += 1
            shares[agent] += 1
            if heads[agent] == len(self._lines[agent].waiters):
                del heads[agent]

    def _at(self, agent: str, index: int) -> Waiter:
        return self._lines[agent].waiters[index]

    def enter(self, waiter: Waiter, *, again: bool = False) -> None:
        """Let one more wait; one that comes back from its turn ``again`` is not sent away.

        Raises:
            RoomFullError: a limit is reached; nothing has changed.
        """
        limits, line = self._limits, self._lines.get(waiter.agent, _Line())
        near = self._by_connection.get(waiter.connection, 0)
        full = ""
        if self._count >= limits.waiters_max:
            full = f"{self._count} tasks wait already"
        elif len(line.waiters) >= limits.agent_waiters_max:
            full = f"{len(line.waiters)} tasks of this agent wait already"
        elif waiter.connection and near >= limits.connection_waiters_max:
            full = f"{near} tasks of this connection wait already"
        elif self._bytes + waiter.size_bytes > limits.bytes_max:
            full = f"waiting requests hold {self._bytes >> 20} MiB already"
        if full and not again:
            raise RoomFullError(full)
        self._by_connection[waiter.connection] = near + 1
        self._lines[waiter.agent] = line
        if not line.waiters:
            line.served = max(line.served, self._served)
        insort(line.waiters, waiter)
        self._count += 1
        self._bytes += waiter.size_bytes
        self._arm(waiter.earliest_ms)

    def put_off(self, waiter: Waiter, earliest_ms: int) -> None:
        """Set when a waiter may look again; it keeps its place."""
        waiter.earliest_ms = earliest_ms
        self._arm(earliest_ms)

    def leave(self, waiter: Waiter) -> None:
        """Let one go: it has its capacity, or waits no longer; safe when it is not there."""
        line = self._lines.get(waiter.agent)
        if line is None or waiter not in line.waiters:
            return
        line.waiters.remove(waiter)
        self._count -= 1
        self._bytes -= waiter.size_bytes
        self._by_connection[waiter.connection] -= 1
        if not self._by_connection[waiter.connection]:
            del self._by_connection[waiter.connection]
        if not line.waiters:
            del self._lines[waiter.agent]

    def position(self, waiter: Waiter) -> int:
        """How many would go before it, and itself; 0 when it does not wait.

        Of each other agent as many go first as of its own, so far as there are.
        """
        line = self._lines.get(waiter.agent)
        if line is None or waiter not in line.waiters:
            return 0
        place = line.waiters.index(waiter)
        mine = max(line.served, self._served)
        ahead = place
        for agent, other in self._lines.items():
            if agent != waiter.agent:
                lead = mine - max(other.served, self._served)
                earlier = place + lead < len(other.waiters) and place + lead >= 0
                before = earlier and other.waiters[place + lead] < waiter
                ahead += max(0, min(len(other.waiters), place + lead + before))
        return ahead + 1

    def look_again(self, most: int | None = None) -> None:
        """Something was cleared before its time: everyone may look, or the first of them."""
        now_ms = self._clock.now_ms()
        for waiter in islice(self, most):
            waiter.earliest_ms = min(waiter.earliest_ms, now_ms)
        if self._count:
            self._arm(now_ms)

    def given_back(self) -> None:
        """A call gave back some of what it held: the first may look, soon."""
        if self._count and self._given_back is None:
            self._given_back = self._later(GIVEN_BACK_S, self._look_for_it)

    def _look_for_it(self) -> None:
        self._given_back = None
        self.look_again(LOOKS_AT_ONCE)

    def close(self) -> None:
        """Give nobody a turn any more."""
        self._disarm()
        if self._given_back is not None:
            self._given_back.cancel()
            self._given_back = None

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at_ms: int, jitter_ms: int = JITTER_MS) -> None:
        now_ms = self._clock.now_ms()
        at_ms = max(at_ms, now_ms)
        if self._timer is not None and now_ms - OVERDUE_MS < self._timer_ms <= at_ms:
            return
        self._disarm()
        self._timer_ms = at_ms
        wait_ms = min(at_ms - now_ms, LONGEST_MS) + self._entropy.jitter_ms(jitter_ms)
        self._timer = self._later(wait_ms / 1_000, self._pump)

    def _pump(self) -> None:
        """Give turns to those who are due, while the pace allows."""
        self._timer = None
        now_ms = self._clock.now_ms()
        self._fill(now_ms)
        due = (one for one in self if one.earliest_ms <= now_ms)
        for waiter in list(islice(due, LOOKS_AT_ONCE)):
            if self._tokens_milli < FULL:
                break
            self._turn(waiter)
        if any(one.earliest_ms <= now_ms for line in self._lines.values() for one in line.waiters):
            self._arm(now_ms + FULL // TURNS_PER_S, jitter_ms=0)
        elif self._count:
            self._arm(min(one.earliest_ms for line in self._lines.values() for one in line.waiters))

    def _turn(self, waiter: Waiter) -> None:
        """Let one look; if it goes, that counts for its agent, and for the pace."""
        line = self._lines.get(waiter.agent)
        if line is None or waiter not in line.waiters:
            return  # it left while others looked
        before = self._count
        waiter.look()
        if self._count < before:
            self._served = max(line.served, self._served)
            line.served = self._served + 1
            self._tokens_milli -= FULL

    def _fill(self, now_ms: int) -> None:
        passed_ms, self._filled_ms = now_ms - self._filled_ms, now_ms
        self._tokens_milli = min(BURST * FULL, self._tokens_milli + passed_ms * TURNS_PER_S)
