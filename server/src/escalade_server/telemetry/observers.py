"""Several watchers where the engine knows one."""

from collections.abc import Sequence

from escalade_server.core.facts import Fact, Outcome
from escalade_server.core.task import Request
from escalade_server.engine.ports import Observer


class Observers:
    """Tells every observer, in order. Each of them neither blocks nor raises, so nor does this."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        """Keep where each is told: looking that up is dearer than some of what they do."""
        self._facts = tuple([observer.fact for observer in observers])
        self._endings = tuple([observer.ended for observer in observers])

    def fact(self, task_id: str, request: Request, fact: Fact, now_ms: int) -> None:
        """Pass one announced fact on."""
        for tell in self._facts:
            tell(task_id, request, fact, now_ms)

    def ended(self, task_id: str, request: Request, outcome: Outcome) -> None:
        """Pass the one ending of a task on."""
        for tell in self._endings:
            tell(task_id, request, outcome)
