"""Where mistakes of ours go: to the log, under an opaque id that the caller is told (P5, D8)."""

import traceback
from collections.abc import Callable

from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log


class LoggedMistakes:
    """Writes where a mistake happened. Its message stays out: it may quote a prompt."""

    def __init__(self, log: Log, make_id: Callable[[], str]) -> None:
        """Write to ``log``; ``make_id`` draws the ids."""
        self._log = log
        self._make_id = make_id
        self.count = 0

    def __call__(self, error: BaseException) -> str:
        """Record a mistake; answer the id under which it stands in the log."""
        self.count += 1
        mistake_id = self._make_id()
        frames = traceback.extract_tb(error.__traceback__)[-8:]
        self._log.error(
            names.MISTAKE,
            mistake_id=mistake_id,
            error=type(error).__qualname__,
            where=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
        )
        return mistake_id
