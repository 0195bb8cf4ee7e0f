"""``RouterService``: takes a call, hands it to the engine, and writes what comes back.

The handler is the only writer of its stream (P2) and never waits for a settlement (P4). However
the caller goes (cancel, deadline, death, drain: P3), the run is told, and nobody waits for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from grpc import aio

from escalade.v1 import error_pb2
from escalade.v1.escalation_pb2 import Event, Failed, Report
from escalade.v1.router_service_pb2 import (
    CompleteRequest,
    CompleteResponse,
    ReportOutcomeRequest,
    ReportOutcomeResponse,
    RouteRequest,
    RouteResponse,
)
from escalade_server.api.callers import Identity
from escalade_server.api.calls import Call, Calls
from escalade_server.api.convert_in import request_from_proto
from escalade_server.api.convert_route import (
    booked_to_proto,
    plan_to_proto,
    route_from_proto,
)
from escalade_server.api.face import Engine
from escalade_server.api.findings import ID, Findings
from escalade_server.api.mends import mended
from escalade_server.api.methods import Context, as_mistake, refuse
from escalade_server.api.outbox import Outbox, Response
from escalade_server.api.route import Hearing, RouteOutbox, first_message, take
from escalade_server.api.status import Refusal, RefusedError, bug, refusal_of
from escalade_server.api.trace_context import trace_of
from escalade_server.core import facts, tracing
from escalade_server.core.task import Delivery, Request
from escalade_server.engine.ports import Mistakes, Origin
from escalade_server.engine.resume import ResumeTokenError

REQUEST_ID_KEY = "escalade-request-id"
"""Initial metadata at acceptance: from then on no channel repeats the call (P12)."""
STALLED = Refusal(
    error_pb2.ERROR_REASON_CANCELLED, "the stream was not read for too long and was cut"
)
"""A reader that stalls counts as a caller who left (faults C5)."""
BROKEN = Refusal(error_pb2.ERROR_REASON_CANCELLED, "the stream could not be written")
MARGIN_MS = 50
MARGIN_PERCENT = 2


def left_ms(remaining_s: float | None) -> int | None:
    """What is left for the core of a caller's deadline: less max(50 ms, 2 %) (P9).

    A refusal sent at the deadline itself is never seen. None without a deadline.
    """
    if remaining_s is None:
        return None
    remaining_ms = int(remaining_s * 1_000)
    return remaining_ms - max(MARGIN_MS, remaining_ms * MARGIN_PERCENT // 100)


class RouterServicer:
    """Serves ``Complete``, ``Route`` and ``ReportOutcome``."""

    def __init__(self, engine: Engine, calls: Calls, mistakes: Mistakes) -> None:
        """Keep the engine, the registry of calls in flight, and where mistakes go."""
        self._engine = engine
        self._calls = calls
        self._mistakes = mistakes

    async def Complete(  # noqa: N802 - a proto name
        self, request: CompleteRequest, context: Context, caller: Identity
    ) -> None:
        """Do the work and stream the events of one task."""

        async def serve(call: Call) -> None:
            await self._serve(request, context, caller, call)

        await self._admit(request, CompleteResponse, context, caller, serve)

    async def Route(  # noqa: N802 - a proto name
        self, _requests: object, context: Context, caller: Identity
    ) -> None:
        """Decide for a caller that calls the models itself, and reports (R31-R33)."""
        request = await first_message(context)

        async def serve(call: Call) -> None:
            await self._route(request, context, caller, call)

        await self._admit(request, RouteResponse, context, caller, serve)

    async def ReportOutcome(  # noqa: N802 - a proto name
        self, request: ReportOutcomeRequest, _context: Context, caller: Identity
    ) -> ReportOutcomeResponse:
        """Take a report outside its stream: idempotent, and bound to the agent (R32)."""
        found = Findings()
        found.matches("reservation_id", request.reservation_id, ID)
        found.raise_any()
        return booked_to_proto(
            await take(self._engine, request.reservation_id, request.outcome, caller.agent)
        )

    async def _admit(
        self,
        request: CompleteRequest | RouteRequest,
        response: type[Response],
        context: Context,
        caller: Identity,
        serve: Callable[[Call], Awaitable[None]],
    ) -> None:
        """Serve a call if there is room for it; however that ends, its stream ends properly."""
        size_bytes = request.ByteSize()
        busy = self._calls.refusal(size_bytes, caller.own)
        if busy is not None:
            raise RefusedError(busy)  # without any message, so that a channel may retry it
        call = self._calls.open(size_bytes, caller.agent)
        try:
            await serve(call)
        except RefusedError as error:
            await _fail(request.request_id, response, context, call, error.refusal)
        except aio.BaseError:
            refuse(context, BROKEN)  # most likely nobody is left to be told (P3)
        except (Exception, asyncio.CancelledError, SystemExit) as error:  # noqa: BLE001
            if call.is_cut and isinstance(error, asyncio.CancelledError):  # it would end no call
                refuse(context, STALLED)
                return
            # A mistake of ours ends with an event too (P5).
            refusal = bug(self._mistakes(as_mistake(error)))
            await _fail(request.request_id, response, context, call, refusal)
        finally:
            self._calls.close(call)

    async def _serve(
        self, request: CompleteRequest, context: Context, caller: Identity, call: Call
    ) -> None:
        engine = self._engine
        asked = request_from_proto(
            request,
            engine.catalog,
            request_id=request.request_id or engine.entropy.task_id(),
            now_ms=engine.clock.now_ms(),
            left_ms=_time_to_work(context),
            agent=caller.agent,
            trace=trace_of(context.invocation_metadata()),
        )
        loop = asyncio.get_running_loop()
        whole = asked.request.delivery is Delivery.WHOLE
        outbox = Outbox(loop, whole=whole, flush_s=asked.flush_ms / 1_000)
        call.outbox = outbox
        asked_for, origin = await self._origin(request, asked.request, context, call)
        outbox.on_wait = partial(self._calls.park, call)
        if asked_for.task.session_id:
            asked_for = await engine.recalled(asked_for)
        run = engine.start(asked_for, outbox, origin)
        outbox.trace_id = tracing.trace_id(run.task_id, asked_for.trace)
        try:
            await context.send_initial_metadata(((REQUEST_ID_KEY, asked.request.id),))
            outcome = await _pump(outbox, context, loop)
        finally:
            outbox.close()
            if not outbox.ended:
                run.leave()
        if isinstance(outcome, facts.Failed):
            refuse(context, refusal_of(outcome, engine.clock.now_ms()))

    async def _origin(
        self, wire: CompleteRequest | RouteRequest, request: Request, context: Context, call: Call
    ) -> tuple[Request, Origin]:
        """Say where a request comes from, and take up its place in the queue if it has one."""
        origin = Origin(context.peer(), call.size_bytes)
        if not wire.resume_token:
            return request, origin
        try:
            request, origin = self._engine.resumed(request, origin, wire.resume_token)
        except ResumeTokenError as error:
            what = f"cannot be taken up: {error}"
            raise RefusedError(
                Refusal(
                    error_pb2.ERROR_REASON_RESUME_TOKEN_INVALID,
                    f"resume_token {what}; call without it to wait from now on",
                    violations=(("resume_token", what),),
                )
            ) from None
        self._calls.park(call, waits=True)
        try:
            await self._engine.turn(request, origin)
        finally:
            self._calls.park(call, waits=False)
        return request, origin

    async def _route(
        self, wire: RouteRequest, context: Context, caller: Identity, call: Call
    ) -> None:
        engine = self._engine
        request = route_from_proto(
            wire,
            engine.catalog,
            request_id=wire.request_id or engine.entropy.task_id(),
            now_ms=engine.clock.now_ms(),
            left_ms=_time_to_work(context),
            agent=caller.agent,
            trusted=not caller.agent or caller.own.trusted_reports,
            trace=trace_of(context.invocation_metadata()),
        )
        accepted = ((REQUEST_ID_KEY, request.id),)
        if wire.task.dry_run:
            await context.send_initial_metadata(accepted)
            plan = engine.plan(await engine.recalled(request))
            await context.write(plan_to_proto(plan, request, engine.clock.now_ms()))
            return
        request, origin = await self._origin(wire, request, context, call)
        loop = asyncio.get_running_loop()
        call.outbox = outbox = RouteOutbox(loop)
        outbox.on_wait = partial(self._calls.park, call)
        if request.task.session_id:
            request = await engine.recalled(request)
        run = engine.start(request, outbox, origin)
        outbox.trace_id = tracing.trace_id(run.task_id, request.trace)
        hearing = loop.create_task(Hearing(engine, run, outbox, context, caller.agent).listen())
        try:
            await context.send_initial_metadata(accepted)
            outcome = await _pump(outbox, context, loop)
        finally:
            hearing.cancel()
            outbox.close()
            if not outbox.ended:
                run.leave()
        if isinstance(outcome, facts.Failed):
            refuse(context, refusal_of(outcome, engine.clock.now_ms()))


def _time_to_work(context: Context) -> int | None:
    """Answer what the caller's deadline leaves for the core; None without one."""
    left = left_ms(context.time_remaining())
    if left is not None and left <= 0:
        raise RefusedError(
            Refusal(
                error_pb2.ERROR_REASON_DEADLINE_REACHED,
                "the deadline leaves no time to work; nothing was started",
            )
        )
    return left


async def _pump(outbox: Outbox, context: Context, loop: asyncio.AbstractEventLoop) -> facts.Outcome:
    """Write what the outbox gives until its ending is written."""
    while True:
        response = await outbox.take()
        if response.events:
            outbox.writing_since = loop.time()
            await context.write(response)
            outbox.writing_since = 0.0
        if outbox.outcome is not None:
            return outbox.outcome


async def _fail(
    request_id: str, response: type[Response], context: Context, call: Call, refusal: Refusal
) -> None:
    """End a stream that the engine does not end: one ``Failed``, then its status (R30)."""
    sequence = 1 if call.outbox is None else call.outbox.sequence + 1
    failed = Failed(
        reason=refusal.reason,
        message=mended(refusal.reason, refusal.message),
        report=Report(request_id=request_id),
    )
    with suppress(aio.BaseError):  # nobody is left to be told (P3)
        await context.write(response(events=[Event(sequence=sequence, failed=failed)]))
        refuse(context, refusal)
