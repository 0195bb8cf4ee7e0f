"""What the API needs of the engine, and nothing more; ``engine.engine.Engine`` has it all."""

from collections.abc import Sequence
from typing import Protocol

from escalade_server.core.catalog import Catalog
from escalade_server.core.events import OutcomeReported
from escalade_server.core.plan import Plan
from escalade_server.core.standing import Standing
from escalade_server.core.task import Request
from escalade_server.engine.late import Booked
from escalade_server.engine.ports import NOWHERE, Caller, Clock, Entropy, Origin, RawEvidence, Spend
from escalade_server.engine.waiting import Waiter


class Run(Protocol):
    """One running task."""

    task_id: str
    """Of which its trace is worked out (``core.tracing``)."""

    def leave(self) -> None:
        """Tell the task that its caller is gone; settling goes on without anyone waiting (P4)."""
        ...

    def extend(self, attempt: int) -> None:
        """Extend the lease of an attempt that its caller works on (R32)."""
        ...

    def end_reports(self) -> None:
        """Tell that the caller will not report any more, but still listens (R31)."""
        ...


class Engine(Protocol):
    """The door of the shell, as seen from a call."""

    @property
    def catalog(self) -> Catalog:
        """The strategy in force."""
        ...

    @property
    def clock(self) -> Clock:
        """The service's own time."""
        ...

    @property
    def entropy(self) -> Entropy:
        """The source of ids."""
        ...

    @property
    def running(self) -> int:
        """Number of tasks whose books are not closed yet."""
        ...

    @property
    def ledger_wrong(self) -> str:
        """Why nothing can be booked now; empty when all is well."""
        ...

    @property
    def free_goes_on(self) -> bool:
        """Free models are served also while nothing can be booked."""
        ...

    async def recalled(self, request: Request) -> Request:
        """Answer a request with what is known of its session, if it names one (R29)."""
        ...

    def start(self, request: Request, caller: Caller, origin: Origin = NOWHERE) -> Run:
        """Start a task; everything it has to say goes to ``caller``. Never raises."""
        ...

    def resumed(self, request: Request, origin: Origin, token: str) -> tuple[Request, Origin]:
        """Take up the place in the queue that a token keeps; raises ``ResumeTokenError``."""
        ...

    async def turn(self, request: Request, origin: Origin) -> None:
        """Let a task that was resumed take its turn among those who wait, before it starts."""
        ...

    @property
    def waiters(self) -> Sequence[Waiter]:
        """Who waits for capacity, in the order in which they would go."""
        ...

    def plan(self, request: Request) -> Plan:
        """Work out where a task would go, and reserve nothing (R31)."""
        ...

    async def report(
        self,
        reservation_id: str,
        outcome: OutcomeReported,
        agent: str,
        evidence: RawEvidence | None = None,
    ) -> Booked:
        """Take a caller's report on an attempt: its task goes on by it, else the books change."""
        ...

    def standing(self) -> Standing:
        """Shared state and circuits at this instant."""
        ...

    def spends(self) -> tuple[Spend, ...]:
        """Every counter's use at this instant."""
        ...
