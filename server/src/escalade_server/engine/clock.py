"""The only place where time is told: wall time that never goes back (T4, T5).

The clock is set to the wall once and then advances with the machine's monotonic clock. Every
second it compares itself with the wall and runs up to 5 % faster or slower until they agree, so a
small step of the wall clock, forward or back, is followed smoothly and no instant comes twice.
A difference above five minutes is not believed at once: until then windows neither end early nor
begin anew because of a broken clock. It is believed when two answers of other machines in a row
carry a date that agrees with the wall; where no such answers come, when it still stands after a
quarter of an hour. Then it is followed: forward in one step, back by running slower.
"""

import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import partial

STEER_EVERY_NS = 1_000_000_000
STEER_OVER_NS = 60_000_000_000
"""A difference is made good over this time, if the steepest rate allows."""
RATE_MAX_PPM = 50_000
DOUBTFUL_NS = 300_000_000_000
BELIEVED_AFTER_NS = 900_000_000_000
"""Without witnesses."""
WITNESSES = 2
"""Dates in a row that must agree with the wall."""


_MONOTONIC_NS: Callable[[], int] = (
    partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)  # goes on while the machine sleeps
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic_ns
)


monotonic_s: Callable[[], float] = time.monotonic
"""Seconds that only go on: for spans of time inside a process, never an instant."""


class SystemClock:
    """``Clock`` of the engine. May be read from any thread."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = _MONOTONIC_NS,
        *,
        witnessed: bool = False,
    ) -> None:
        """Set the clock to the wall. The two sources are given by tests only.

        ``witnessed`` says that ``hear`` will be told dates of other machines: then the wall alone
        is never believed.
        """
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self.witnessed = witnessed
        self._lock = threading.Lock()
        self._doubt_since_ns: int | None = None
        self._doubted_ns = 0
        self._in_doubt = False
        self._agreed = 0
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

    @property
    def doubted_ms(self) -> int:
        """By how much the wall is ahead while that is not believed; 0 when there is no doubt."""
        return self._doubted_ns // 1_000_000 if self._in_doubt else 0

    def hear(self, date: str) -> None:
        """Take the ``Date`` of another machine's answer; it counts while there is a doubt."""
        if self._doubt_since_ns is None:
            return
        try:
            said_ns = int(parsedate_to_datetime(date).timestamp()) * 1_000_000_000
        except (ValueError, OverflowError):
            return
        with self._lock:
            agrees = abs(said_ns - self._wall_ns()) <= DOUBTFUL_NS
            self._agreed = self._agreed + 1 if agrees else 0

    def _steer(self, mono: int) -> int:
        """Begin a new line where the old one ends, bent towards the wall."""
        with self._lock:
            origin, base, ppm, _ = self._line
            passed = max(mono - origin, 0)  # another thread may have begun one meanwhile
            # Nobody may have looked for long: the rate was meant for one second only.
            here = base + passed + min(passed, STEER_EVERY_NS) * ppm // 1_000_000
            behind = self._wall_ns() - here
            self._in_doubt = not self._believes(behind, mono)
            if self._in_doubt:
                behind = 0
            elif behind > DOUBTFUL_NS:
                here, behind = here + behind, 0
            steep = behind * 1_000_000 // STEER_OVER_NS
            rate = max(-RATE_MAX_PPM, min(RATE_MAX_PPM, steep))
            self._line = (mono, here, rate, mono + STEER_EVERY_NS)
            return here

    def _believes(self, behind: int, mono: int) -> bool:
        """Judge a difference; one that is small, or has been confirmed, is believed."""
        if abs(behind) <= DOUBTFUL_NS:
            self._doubt_since_ns, self._doubted_ns, self._agreed = None, 0, 0
            return True
        if self._doubt_since_ns is None or abs(behind - self._doubted_ns) > DOUBTFUL_NS:
            self._doubt_since_ns, self._agreed = mono, 0  # what was said was said of another wall
        self._doubted_ns = behind
        if self.witnessed:
            return self._agreed >= WITNESSES
        return mono - self._doubt_since_ns >= BELIEVED_AFTER_NS
