"""The only place where time is told: wall time that never goes back (T4, T5).

The clock is set to the wall once and then advances with the machine's monotonic clock. Every
second it compares itself with the wall and runs up to 5 % faster or slower until they agree, so a
small step of the wall clock, forward or back, is followed smoothly and no instant comes twice.
A difference above five minutes is not believed at once: if the wall really moved, the difference
still stands after a quarter of an hour, and only then it is followed: forward in one step, back by
running slower. Until then windows neither end early nor begin anew because of a broken clock.
"""

import threading
import time
from collections.abc import Callable
from functools import partial

STEER_EVERY_NS = 1_000_000_000
STEER_OVER_NS = 60_000_000_000
"""A difference is made good over this time, if the steepest rate allows."""
RATE_MAX_PPM = 50_000
DOUBTFUL_NS = 300_000_000_000
BELIEVED_AFTER_NS = 900_000_000_000


_MONOTONIC_NS: Callable[[], int] = (
    partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)  # goes on while the machine sleeps
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic_ns
)


class SystemClock:
    """``Clock`` of the engine. May be read from any thread."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = _MONOTONIC_NS,
    ) -> None:
        """Set the clock to the wall. The two sources are given by tests only."""
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._lock = threading.Lock()
        self._doubt_since_ns: int | None = None
        mono = monotonic_ns()
        # One straight line of time: monotonic origin, time there, rate, where to look again.
        # Replaced as a whole, so that a reader on another thread never sees half of it.
        self._line = (mono, wall_ns(), 0, mono + STEER_EVERY_NS)

    def now_ms(self) -> int:
        """Unix ms; never less than before."""
        mono = self._monotonic_ns()
        origin, base, ppm, steer_at = self._line
        if mono >= steer_at:
            return self._steer(mono) // 1_000_000
        passed = mono - origin
        return (base + passed + passed * ppm // 1_000_000) // 1_000_000

    def _steer(self, mono: int) -> int:
        """Begin a new line where the old one ends, bent towards the wall."""
        with self._lock:
            origin, base, ppm, _ = self._line
            passed = max(mono - origin, 0)  # another thread may have begun one meanwhile
            # Nobody may have looked for long: the rate was meant for one second only.
            here = base + passed + min(passed, STEER_EVERY_NS) * ppm // 1_000_000
            behind = self._wall_ns() - here
            if abs(behind) <= DOUBTFUL_NS:
                self._doubt_since_ns = None
            elif self._doubt_since_ns is None:
                self._doubt_since_ns = mono
            believed = (
                self._doubt_since_ns is None or mono - self._doubt_since_ns >= BELIEVED_AFTER_NS
            )
            if not believed:
                behind = 0
            elif behind > DOUBTFUL_NS:
                here, behind = here + behind, 0
            steep = behind * 1_000_000 // STEER_OVER_NS
            rate = max(-RATE_MAX_PPM, min(RATE_MAX_PPM, steep))
            self._line = (mono, here, rate, mono + STEER_EVERY_NS)
            return here
