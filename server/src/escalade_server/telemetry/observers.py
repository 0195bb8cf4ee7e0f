"""Several watchers where the engine knows one."""

from collections.abc import Sequence

from escalade_server.core.facts import Fact, Outcome
from escalade_server.core.task import Request
from escalade_server.engine.ports import Observer


class Observers:
    """Tells every observer, in order. Each of them neither blocks nor raises, so nor does this."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        """Keep the observers."""
        self._observers = tuple(observers)

    def fact(self, task_id: str, request: Request, fact: Fact, now_ms: int) -> None:
        """Pass one announced fact on."""
        for observer in self._observers:
            observer.fact(task_id, request, fact, now_ms)

    def ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        """Pass the one ending of a task on."""
        for observer in self._observers:
            observer.ended(task_id, request, outcome)
