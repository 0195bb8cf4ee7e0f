"""When a stream that broke is asked for again (P8). No I/O, no clock, no chance: all are handed in.

A run is one call on the wire; a stream has one or several, all with the same request id, so that
no two of them are answered and charged (R27). Rules:

- After the first Delta never: text that was given cannot be taken back.
- A cut on the road (INTERNAL or UNAVAILABLE with RST_STREAM), a server that goes away after it
  answered, and one that drains: again, after a back-off, until the caller's deadline, or for
  120 s since the last sign of life without one.
- A server that never answered gets one more try, on top of those of the channel: a call that was
  taken but not yet answered looks the same as nobody there, and nobody there is told at once.
- A run that still goes on (REQUEST_IN_PROGRESS) is waited for, if the id is surely our own.
- A resume token keeps a place in the queue once. One that is refused is dropped, the id stays.
- Whatever else the service says is its word, and is raised.

A new run starts a new stream: the answer is folded from it alone. What was announced stays
announced, and is not repeated as long as the new stream tells the same in the same order.
"""

from collections.abc import Callable
from dataclasses import replace

from escalade._errors import (
    Draining,
    EscaladeError,
    RequestInProgress,
    ResumeTokenInvalid,
    StreamCut,
    Unreachable,
)
from escalade._events import Announcement, Reconnected, Selected, Waiting

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
LOST_FOR_S = 120.0  # the time for which the service keeps a waiter's place
RUN_AGAIN_S = 1.0  # until a run that still goes on is asked for, if the service does not say


class Road:
    """Decides whether and when the next run begins."""

    def __init__(
        self,
        *,
        resume_token: str,
        is_own_id: bool,
        deadline_s: float | None,
        now_s: float,
        draw: Callable[[], float],
    ) -> None:
        """Begin the first run.

        Args:
            resume_token: The caller's.
            is_own_id: Nobody else can know the request id.
            deadline_s: The caller's, on the clock of `now_s`.
            now_s: A clock that never goes back.
            draw: Chance, from 0 to 1.
        """
        self.resume_token = resume_token
        self.breaks = 0
        self._is_own_id = is_own_id
        self._deadline_s = deadline_s
        self._draw = draw
        self._alive_s = now_s
        self._met = False
        self._in_vain = 0
        self._cause: EscaladeError | None = None
        self._silent = True
        self._story: list[Announcement] = []
        self._place = 0

    def left_s(self, now_s: float) -> float | None:
        """Seconds until the caller's deadline; None without one."""
        return None if self._deadline_s is None else self._deadline_s - now_s

    def heard(self, now_s: float) -> Reconnected | None:
        """Note that a run tells something; the first time of a later run, that is news."""
        self._alive_s, self._met, self._in_vain = now_s, True, 0
        if not self._silent:
            return None
        self._silent = False
        resumed, self.resume_token = bool(self.resume_token), ""  # it was used, just now
        if self._cause is None:
            return None
        return Reconnected(self.breaks, self._cause, resumed)

    def admits(self, told: Announcement) -> bool:
        """Tell whether an announcement is new, or stood at this place of an earlier run's too."""
        if isinstance(told, Waiting):
            self.resume_token = told.resume_token
            told = replace(told, resume_token="")  # each run has its own
        elif isinstance(told, Selected):
            told = replace(told, reservation_id="", expires=None)  # likewise
        place, self._place = self._place, self._place + 1
        if self._story[place : place + 1] == [told]:
            return False
        self._story[place:] = [told]
        return True

    def delay_after(self, error: EscaladeError, now_s: float) -> float | None:
        """Seconds until the next run after this end of one; None if there is none."""
        if not self._may_follow(error, now_s):
            return None
        delay_s = self._wait_s(error)
        ends_s = self._alive_s + LOST_FOR_S if self._deadline_s is None else self._deadline_s
        if now_s + delay_s >= ends_s:
            return None
        if isinstance(error, ResumeTokenInvalid):
            self.resume_token = ""
        if self._cause is None or not self._in_vain:
            self._cause = error  # what broke the stream says more than what fails since
        self.breaks += 1
        self._in_vain += 1
        self._silent = True
        self._place = 0
        return delay_s

    @property
    def history(self) -> str:
        """What broke earlier runs, for the text of an error; empty if none told anything."""
        if self._cause is None or not self._met:
            return ""
        return f"before that: {self._cause.message}; asked again {self.breaks}×"

    def _may_follow(self, error: EscaladeError, now_s: float) -> bool:
        match error:
            case Draining():
                self._met = True
                return True
            case StreamCut():
                return True
            case Unreachable():
                return self._met or not self._in_vain
            case RequestInProgress():
                self._alive_s, self._met = now_s, True
                return self._is_own_id or self.breaks > 0
            case ResumeTokenInvalid():
                return self.breaks > 0 and bool(self.resume_token)
            case _:
                return False

    def _wait_s(self, error: EscaladeError) -> float:
        """Wait as long as told, and then a growing time, of which half is chance."""
        if isinstance(error, ResumeTokenInvalid):
            return 0.0
        told_s = error.retry_after.total_seconds() if error.retry_after is not None else 0.0
        doublings = min(self._in_vain, 16)
        if isinstance(error, RequestInProgress):  # whoever answers is not spared by asking less
            told_s, doublings = told_s or RUN_AGAIN_S, 0
        grown_s: float = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0**doublings)
        return told_s + grown_s * (0.5 + 0.5 * self._draw())
