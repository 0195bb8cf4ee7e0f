"""What becomes of a request id that comes again (R27): the part of it that one process can tell.

An id that runs is refused, an answer that is still kept is told again, and with other content
both are mistakes of the caller. What was answered longer ago, or before a restart, the store knows.
"""

import asyncio
from collections.abc import Callable
from sys import getsizeof
from typing import NamedTuple

from escalade_server.core import ending
from escalade_server.core.answer import is_kept
from escalade_server.core.events import OutcomeReported
from escalade_server.core.facts import Finished, Outcome
from escalade_server.core.rules import Rules
from escalade_server.core.task import Part, ProviderState, Reasoning, Request, Text, ToolCall
from escalade_server.engine.ports import Clock

KEPT_BYTES_MAX = 64 << 20
"""All kept answers together, as far as memory can be told; then the oldest go first."""
KEPT_MAX = 4_096
"""Likewise: a full pass of the garbage collector looks at each, and nothing runs meanwhile."""
ANSWER_BYTES_MAX = KEPT_BYTES_MAX // 16
"""One answer; a larger one is not kept."""
REPORT_BYTES = 4_096
"""What a report takes; with another kilobyte for each attempt and each model passed over."""


class _Kept(NamedTuple):
    """An answer that is told again until an instant."""

    content: str
    finished: Finished
    size_bytes: int
    until_ms: int


class Repeats:
    """Owned by one event loop, and by its engine."""

    def __init__(self, clock: Clock, free: Callable[[str, str], None]) -> None:
        """``free`` hears of an agent's id that runs no more; the books know if it was answered."""
        self._clock, self._free = clock, free
        self._running: dict[tuple[str, str], str] = {}
        self._kept: dict[tuple[str, str], _Kept] = {}  # oldest first
        self._kept_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, request: Request) -> Outcome | None:
        """Note that a request runs from now on; or answer how it ends at once."""
        if not request.content:
            return None
        key = request.agent, request.id
        now_ms = self._clock.now_ms()
        self._drop_old(now_ms)
        content = self._running.get(key)
        if content is not None:
            same = content == request.content
            why = ending.IN_PROGRESS if same else ending.OTHER_CONTENT
            return ending.unstarted(request, why, now_ms)
        kept = self._kept.get(key)
        if kept is None:
            self._running[key] = request.content
            return None
        if kept.content != request.content:
            return ending.unstarted(request, ending.OTHER_CONTENT, now_ms)
        return kept.finished._replace(replayed=True)

    def end(self, request: Request, outcome: Outcome, rules: Rules) -> None:
        """Note that a request that was begun has ended; keep its answer, if it may be kept."""
        if not request.content:
            return
        key = request.agent, request.id
        del self._running[key]
        self._free(*key)
        if not (isinstance(outcome, Finished) and is_kept(request, rules)):
            return
        size_bytes = _weight(outcome)
        if size_bytes > ANSWER_BYTES_MAX:
            return
        now_ms = self._clock.now_ms()
        until_ms = now_ms + rules.keep_answers_ms
        self._kept[key] = _Kept(request.content, outcome, size_bytes, until_ms)
        self._kept_bytes += size_bytes
        self._drop_old(now_ms)

    def _drop_old(self, now_ms: int) -> None:
        """Forget what is past its time, or too much; and look again when the next one is."""
        while self._kept:
            oldest, kept = next(iter(self._kept.items()))
            much = self._kept_bytes > KEPT_BYTES_MAX or len(self._kept) > KEPT_MAX
            if kept.until_ms > now_ms and not much:
                if self._timer is None:
                    loop = asyncio.get_running_loop()
                    wait_s = (kept.until_ms - now_ms) / 1_000
                    self._timer = loop.call_later(wait_s, self._on_timer)
                return
            del self._kept[oldest]
            self._kept_bytes -= kept.size_bytes

    def _on_timer(self) -> None:
        self._timer = None
        self._drop_old(self._clock.now_ms())


class Over:
    """The run of a request that was over at once: whatever its caller does, nothing follows."""

    def __init__(self, task_id: str) -> None:
        """Have an id, as every task has."""
        self.task_id = task_id

    def leave(self) -> None:
        """Hear that the caller is gone."""

    def report(self, outcome: OutcomeReported) -> None:
        """Hear of an attempt; there is none."""

    def extend(self, attempt: int) -> None:
        """Hear that the caller works on one."""

    def end_reports(self) -> None:
        """Hear that the caller will not report."""


def _weight(finished: Finished) -> int:
    report = finished.report
    listed = len(report.attempts) + len(report.skips)
    return REPORT_BYTES + 1_024 * listed + sum(map(_size, finished.answer.parts))


def _size(part: Part) -> int:
    match part:
        case Text(text) | Reasoning(text):
            return getsizeof(text)
        case ToolCall(call_id, name, arguments):
            return getsizeof(call_id) + getsizeof(name) + getsizeof(arguments)
        case ProviderState(data=data):
            return getsizeof(data)
        case _:
            return getsizeof(part)
