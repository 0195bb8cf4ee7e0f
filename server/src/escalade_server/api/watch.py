"""``WatchEvents``: the event feed as a stream, with signs of life, for readers of any speed."""

import asyncio
from typing import assert_never

from grpc import aio

from escalade.v1 import error_pb2, escalation_pb2
from escalade.v1 import operations_service_pb2 as wire
from escalade_server.api.convert_out import (
    ALERTS,
    CIRCUITS,
    ESCALATION_KINDS,
    ESCALATION_REASONS,
    FAILURES,
    UNITS,
    VERDICTS,
    time_to_proto,
    wire_text,
)
from escalade_server.api.methods import Context
from escalade_server.api.status import Refusal, RefusedError
from escalade_server.core.standing import Cause
from escalade_server.engine import news
from escalade_server.engine.feed import (
    CursorExpiredError,
    CursorUnreadableError,
    Feed,
    FeedClosedError,
    TooManyWatchersError,
    Watcher,
)
from escalade_server.engine.ports import StoreError

LIFE_S = 15.0
"""How long nothing may be sent: then a message without entries says that all is well."""
_BY_PROTO = {
    wire.FEED_KIND_ESCALATED: news.NewsKind.ESCALATED,
    wire.FEED_KIND_FALLBACK: news.NewsKind.FALLBACK,
    wire.FEED_KIND_ALERT: news.NewsKind.ALERT,
    wire.FEED_KIND_MODEL_STATE: news.NewsKind.MODEL_STATE,
    wire.FEED_KIND_WAIT: news.NewsKind.WAIT,
    wire.FEED_KIND_REPORT: news.NewsKind.REPORT,
    wire.FEED_KIND_STRATEGY: news.NewsKind.STRATEGY,
    wire.FEED_KIND_TASK: news.NewsKind.TASK,
}
STALLED = Refusal(
    error_pb2.ERROR_REASON_CANCELLED,
    "the stream was not read for too long and was cut; resume from the last cursor",
)


class Watch:
    """Serves one call of ``WatchEvents``."""

    def __init__(self, feed: Feed, request: wire.WatchEventsRequest, stall_s: float) -> None:
        """Look at what is asked for.

        Raises:
            RefusedError: a kind is not known.
        """
        self._feed, self._cursor, self._stall_s = feed, request.cursor, stall_s
        for kind in request.kinds:
            if kind not in _BY_PROTO:
                raise _invalid("kinds", f"{kind} is no kind of entry")
        self._kinds = frozenset(_BY_PROTO[kind] for kind in request.kinds)
        self._layers = frozenset(request.layers)

    async def serve(self, context: Context) -> None:
        """Stream until the caller leaves.

        Raises:
            RefusedError: the cursor is no good or has expired, or the watch ends.
        """
        watcher = await self._begin()
        try:
            if not self._cursor:  # so that a watch that breaks off before any news can be resumed
                await context.write(wire.WatchEventsResponse(cursor=watcher.cursor))
            while True:
                entries = await watcher.take(LIFE_S)
                cursor = watcher.cursor
                wanted = [
                    entry_to_proto(entry, watcher.cursor_of(entry.number))
                    for entry in entries
                    if self._wants(entry)
                ]
                if entries and not wanted:
                    continue  # a sign of life tells the cursor
                async with asyncio.timeout(self._stall_s):
                    await context.write(wire.WatchEventsResponse(entries=wanted, cursor=cursor))
        except CursorExpiredError as error:
            raise RefusedError(_expired(error)) from error
        except FeedClosedError:
            raise RefusedError(_DRAINING) from None
        except StoreError as error:
            raise RefusedError(_unreadable(error)) from error
        except TimeoutError:
            raise RefusedError(STALLED) from None
        except aio.BaseError:
            raise RefusedError(_GONE) from None  # most likely nobody is left to be told (P3)
        finally:
            self._feed.leave(watcher)

    async def _begin(self) -> Watcher:
        try:
            return await self._feed.watch(self._cursor)
        except CursorUnreadableError:
            raise _invalid("cursor", "no cursor of a feed; leave it empty to begin now") from None
        except CursorExpiredError as error:
            raise RefusedError(_expired(error)) from error
        except TooManyWatchersError:
            busy = error_pb2.ERROR_REASON_SERVER_BUSY
            raise RefusedError(Refusal(busy, "too many watch already")) from None
        except FeedClosedError:
            raise RefusedError(_DRAINING) from None
        except StoreError as error:
            raise RefusedError(_unreadable(error)) from error

    def _wants(self, entry: news.Entry) -> bool:
        of_kind = not self._kinds or entry.kind in self._kinds
        return of_kind and (not self._layers or not self._layers.isdisjoint(entry.layers))


_DRAINING = Refusal(
    error_pb2.ERROR_REASON_DRAINING, "the server shuts down; resume elsewhere from the last cursor"
)


_GONE = Refusal(error_pb2.ERROR_REASON_CANCELLED, "the stream could not be written")


def _expired(error: CursorExpiredError) -> Refusal:
    return Refusal(
        error_pb2.ERROR_REASON_CURSOR_EXPIRED,
        f"what follows this cursor is not kept any more; the oldest is {error.oldest}",
        metadata=(("oldest", error.oldest),),
    )


def _unreadable(error: StoreError) -> Refusal:
    return Refusal(error_pb2.ERROR_REASON_LEDGER_UNAVAILABLE, f"{error}")


def _invalid(field: str, what: str) -> RefusedError:
    return RefusedError(
        Refusal(
            error_pb2.ERROR_REASON_REQUEST_INVALID, f"{field}: {what}", violations=((field, what),)
        )
    )


def entry_to_proto(entry: news.Entry, cursor: str) -> wire.FeedEntry:
    """Write one entry."""
    made = wire.FeedEntry(
        cursor=cursor,
        time=time_to_proto(entry.at_ms),
        agent=entry.agent,
        request_id=entry.request_id,
        trace_id=entry.trace_id,
    )
    match told := entry.news:
        case news.EscalatedNews():
            made.escalated.from_layer, made.escalated.to_layer = told.from_layer, told.to_layer
            made.escalated.reason = ESCALATION_REASONS[told.reason]
            made.escalated.kind = ESCALATION_KINDS[told.kind]
            made.escalated.detail = wire_text(told.detail)
            if told.failed_attempt is not None:
                made.escalated.failed_attempt = told.failed_attempt
        case news.FallbackNews():
            made.fallback.failed_attempt = told.failed_attempt
            made.fallback.from_target.CopyFrom(_place(told.origin))
            made.fallback.to_target.CopyFrom(_place(told.to))
            made.fallback.failure_class = FAILURES[told.cls]
            made.fallback.detail = wire_text(told.detail)
        case news.AlertNews():
            made.alert.CopyFrom(_alert(told))
        case news.ModelNews():
            made.model_state_changed.CopyFrom(_model_state(told))
        case news.WaitNews():
            made.wait_changed.CopyFrom(_wait(told, entry))
        case news.ReportNews():
            made.report_ready.day = told.day
        case news.StrategyNews():
            made.strategy_reloaded.CopyFrom(_strategy(told))
        case news.TaskNews():
            made.task_ended.answered = told.answered
            made.task_ended.task_type = told.task_type
            if told.place.model:
                made.task_ended.model.CopyFrom(_place(told.place))
            made.task_ended.cost.list_nano_usd = told.list_nanos
            made.task_ended.cost.charged_nano_usd = told.charged_nanos
            made.task_ended.story = wire_text(told.story)
        case _:
            assert_never(told)
    return made


def _place(place: news.Place) -> escalation_pb2.ModelRef:
    return escalation_pb2.ModelRef(
        layer=place.layer, provider=place.provider, account=place.account, model=place.model
    )


def _alert(told: news.AlertNews) -> escalation_pb2.Alert:
    alert = escalation_pb2.Alert(kind=ALERTS[told.kind], detail=wire_text(told.detail))
    if told.place != news.Place():
        alert.target.CopyFrom(_place(told.place))
    if told.percent is not None:
        alert.percent = told.percent
    if told.quota is not None:
        quota = told.quota
        alert.quota.CopyFrom(
            escalation_pb2.Quota(
                name=quota.name,
                scope=quota.scope,
                unit=UNITS[quota.unit],
                period=quota.period.value,
                limit=quota.limit,
                spent=quota.spent,
                held=quota.held,
                resets=time_to_proto(quota.resets_ms),
            )
        )
    return alert


def _model_state(told: news.ModelNews) -> wire.ModelStateChanged:
    status = wire.ModelStatus(
        target=_place(told.place),
        verdict=VERDICTS[told.verdict],
        reason=told.reason,
        detail=wire_text(told.detail),
        until=time_to_proto(told.until_ms),
        circuit=CIRCUITS[told.circuit],
        disabled=told.reason == Cause.DISABLED.value,
    )
    if told.scope:
        status.cooldown.scope = told.scope
        status.cooldown.reason = wire_text(told.detail)
        until = time_to_proto(told.until_ms)
        if until is not None:
            status.cooldown.until.CopyFrom(until)
    return wire.ModelStateChanged(status=status, detail=wire_text(told.detail))


def _strategy(told: news.StrategyNews) -> wire.StrategyReloaded:
    severity = wire.SEVERITY_NOTE if told.applied else wire.SEVERITY_ERROR
    return wire.StrategyReloaded(
        applied=told.applied,
        strategy=wire.StrategyInfo(
            version=told.version, sha256=told.sha256, loaded=time_to_proto(told.loaded_ms)
        ),
        findings=[
            wire.Finding(severity=severity, message=wire_text(text)) for text in told.findings
        ],
    )


def _wait(told: news.WaitNews, entry: news.Entry) -> wire.WaitChanged:
    return wire.WaitChanged(
        waiting=told.waiting,
        waiter=wire.Waiter(
            agent=entry.agent,
            request_id=entry.request_id,
            since=time_to_proto(told.since_ms),
            earliest=time_to_proto(told.earliest_ms),
            reason=VERDICTS[told.reason],
            rule=wire_text(told.rule),
            position=told.position,
        ),
    )
