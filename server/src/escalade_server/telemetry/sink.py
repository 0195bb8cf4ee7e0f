"""Writes lines in a thread of its own: a reader that stalls never stalls the service."""

import queue
import threading
from typing import TextIO

LINES_MAX = 10_000
CLOSE_S = 2.0


class LineSink:
    """A log's last station. What does not fit is dropped and counted, never waited for."""

    def __init__(self, stream: TextIO, lines_max: int = LINES_MAX) -> None:
        """Take lines at once; the thread writes them to ``stream`` until ``close``."""
        self.lost = 0
        """Lines dropped because nobody took them in time, or the stream is gone."""
        self._stream = stream
        self._queue: queue.Queue[str | None] = queue.Queue(lines_max)
        self._thread = threading.Thread(target=self._run, name="escalade-log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Take one line; never blocks."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.lost += 1

    # The methods that structlog calls, by level; it has already filtered.
    debug = info = warning = error = put

    def close(self) -> None:
        """Write what is queued, for a moment at most; safe twice."""
        try:
            self._queue.put(None, timeout=CLOSE_S)
        except queue.Full:
            return
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            lines = [line]
            ends = False
            while not self._queue.empty():
                more = self._queue.get_nowait()
                if more is None:
                    ends = True
                    break
                lines.append(more)
            try:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                self.lost += len(lines)
            if ends:
                return
