"""Virtual time: a heap of what is to happen, and the wall clock that goes with it."""

import heapq
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

Call = Callable[[], None]


class Jump(NamedTuple):
    """At this instant of the run the wall clock steps forward, as after a long sleep (T4)."""

    at_us: int
    by_ms: int


class Agenda:
    """Runs calls in the order of their instants; of two at one instant the earlier made first.

    ``now_us`` counts from the begin of the run, ``now_ms()`` is the wall's Unix ms. A jump moves
    the wall only: what is to happen after a delay happens after that delay.
    """

    def __init__(self, begin_ms: int, jumps: Sequence[Jump] = ()) -> None:
        """Begin at an instant of the wall."""
        self.now_us = 0
        self._wall_ms = begin_ms
        self._heap: list[tuple[int, int, Call]] = []
        self._made = 0
        for jump in jumps:
            self.after(jump.at_us, partial(self._step_wall, jump.by_ms))

    def now_ms(self) -> int:
        """Unix ms; never less than before."""
        return self._wall_ms + self.now_us // 1_000

    def after(self, delay_us: int, call: Call) -> None:
        """Have something done later."""
        self._made += 1
        heapq.heappush(self._heap, (self.now_us + delay_us, self._made, call))

    def run(self) -> None:
        """Do everything, until nothing is left."""
        heap = self._heap
        while heap:
            self.now_us, _, call = heapq.heappop(heap)
            call()

    def _step_wall(self, by_ms: int) -> None:
        self._wall_ms += by_ms
