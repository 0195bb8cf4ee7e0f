"""One call of ``Route``: its handler writes, and a task beside it hears what the caller reports.

Half-close and cancel look alike for a moment (P1): the end of the caller's messages is believed
to be a half-close only when no cancellation has followed it, and means no more than that no
reports come. The caller is then still told what is selected, and that it ended.
"""

import asyncio
from collections.abc import Callable

from grpc import aio

from escalade.v1 import error_pb2
from escalade.v1.router_service_pb2 import Outcome, RouteRequest, RouteResponse
from escalade_server.api.convert_route import later_kind, outcome_from_proto
from escalade_server.api.face import Engine, Run
from escalade_server.api.methods import MALFORMED, Context
from escalade_server.api.outbox import Outbox
from escalade_server.api.status import Refusal, RefusedError
from escalade_server.core.facts import Fact, Selected
from escalade_server.core.facts import Outcome as Ending
from escalade_server.engine.late import Booked, OutcomeConflictError, ReservationUnknownError
from escalade_server.engine.ports import StoreError

GRACE_S = 0.002
"""A cancellation follows the end of messages within 433 us (P1)."""
FIRST_S = 10.0
"""How long a stream may be open without its first message."""
NO_TASK = Refusal(
    error_pb2.ERROR_REASON_REQUEST_INVALID,
    "task is not set: the first message holds it",
    violations=(("task", "is not set: the first message holds it"),),
)


class RouteOutbox(Outbox):
    """What a call of ``Route`` has to say; remembers which attempts its caller was handed."""

    __slots__ = ("_moved", "handed", "open")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start with nothing handed over."""
        super().__init__(loop, whole=False, response=RouteResponse)
        self.handed: dict[int, Selected] = {}
        self.open = 0
        """The attempt that the caller works on; 0 for none."""
        self._moved = asyncio.Event()

    def announce(self, fact: Fact) -> None:
        """Take a fact; a selection is the caller's from here on."""
        if isinstance(fact, Selected):
            self.handed[fact.attempt] = fact
            self.open = fact.attempt
            self._moved.set()
        super().announce(fact)

    def end(self, outcome: Ending) -> None:
        """Take the one ending."""
        super().end(outcome)
        self._moved.set()

    def reported(self, attempt: int) -> None:
        """Note that the caller has reported on an attempt: the next step is the engine's."""
        if attempt == self.open:
            self.open = 0
            self._moved.clear()

    async def moved(self) -> None:
        """Return when it is the caller's turn, or all is over."""
        if not self.ended:
            await self._moved.wait()


async def first_message(context: Context) -> RouteRequest:
    """Read the message that starts a task.

    Raises:
        RefusedError: none came.
    """
    try:
        async with asyncio.timeout(FIRST_S):
            message = await context.read()
    except TimeoutError:
        raise RefusedError(NO_TASK) from None
    if message is aio.EOF:
        raise RefusedError(NO_TASK)
    return _checked(message)


def _checked(message: object) -> RouteRequest:
    if not isinstance(message, RouteRequest):
        raise RefusedError(MALFORMED)
    return message


class Hearing:
    """Reads what the caller says after its first message, until it falls silent."""

    def __init__(
        self, engine: Engine, run: Run, outbox: RouteOutbox, context: Context, agent: str
    ) -> None:
        """Keep whom to tell; a mistake of the caller breaks the outbox off."""
        self._engine, self._run, self._outbox = engine, run, outbox
        self._context, self._agent = context, agent

    async def listen(self) -> None:
        """Hear the caller out; the handler cancels this when the caller is gone."""
        try:
            while (message := await self._context.read()) is not aio.EOF:
                await self._hear(_checked(message))
            await asyncio.sleep(GRACE_S)
            await self._outbox.moved()
            if not self._outbox.ended:
                self._run.end_reports()
        except aio.BaseError:
            pass  # the transport is gone: the handler is told so itself (P3)
        except Exception as error:  # noqa: BLE001 - the handler ends the call by it
            self._outbox.break_off(error)

    async def _hear(self, message: RouteRequest) -> None:
        if later_kind(message) == "progress":
            attempt = message.progress.attempt
            self._handed(attempt, "progress.attempt")
            self._run.extend(attempt)
            return
        told = message.outcome
        selected = self._handed(told.attempt, "outcome.attempt")
        await take(
            self._engine, selected.reservation_id, told, self._agent,
            lambda: self._outbox.reported(told.attempt),
        )  # fmt: skip

    def _handed(self, attempt: int, path: str) -> Selected:
        selected = self._outbox.handed.get(attempt)
        if selected is None:
            what = f"is {attempt}, and no such attempt was selected"
            raise RefusedError(
                Refusal(
                    error_pb2.ERROR_REASON_REQUEST_INVALID,
                    f"{path} {what}",
                    violations=((path, what),),
                )
            )
        return selected


async def take(
    engine: Engine,
    reservation_id: str,
    told: Outcome,
    agent: str,
    heard: Callable[[], None] = lambda: None,
) -> Booked:
    """Take a report, on a stream or outside; ``heard`` is called when it is understood.

    Raises:
        RefusedError: it is malformed, about nothing of the caller's, or a second, different one.
    """
    outcome, evidence = outcome_from_proto(told)
    heard()
    try:
        return await engine.report(reservation_id, outcome, agent, evidence)
    except ReservationUnknownError:
        refusal = Refusal(
            error_pb2.ERROR_REASON_RESERVATION_UNKNOWN,
            "no such reservation of this caller's, or it is over 24 hours old",
            metadata=(("reservation_id", reservation_id),),
        )
    except OutcomeConflictError:
        what = "differs from what was reported of this attempt before"
        refusal = Refusal(
            error_pb2.ERROR_REASON_OUTCOME_CONFLICT,
            f"outcome {what}",
            violations=(("outcome", what),),
        )
    except StoreError:
        refusal = Refusal(
            error_pb2.ERROR_REASON_LEDGER_UNAVAILABLE,
            "the report could not be booked; the same report may be sent again",
        )
    raise RefusedError(refusal)
