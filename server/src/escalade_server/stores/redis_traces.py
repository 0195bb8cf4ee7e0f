"""Traces of tasks in Redis: each under its own key, which ends by itself after a day.

Found by its trace id, or by its request id, for which the newest trace of each agent is kept, and
the newest of all. A list bounds how many there are.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from escalade_server.engine.traces import KEPT_MAX, KEPT_MS, Trace, Wanted
from escalade_server.stores.redis_wire import Field, name_of
from escalade_server.stores.traces import packed, unpacked

if TYPE_CHECKING:
    from escalade_server.stores.redis_orders import Answer, Order


class KeepTrace(NamedTuple):
    """The order to keep a trace."""

    trace: Trace


class FindTrace(NamedTuple):
    """The order to look for a trace."""

    wanted: Wanted


def trace_fields(order: KeepTrace | FindTrace) -> tuple[str, tuple[Field, ...]]:
    """Name the script of an order, and write it."""
    if isinstance(order, FindTrace):
        wanted = order.wanted
        if wanted.request_id:
            return "trace", ("", _name(wanted.request_id, wanted.agent))
        return "trace", (name_of(wanted.trace_id), "")
    trace = order.trace
    names = [_name(trace.request_id, trace.agent), _name(trace.request_id, None)]
    return "trace", (name_of(trace.trace_id), "", packed(trace), names, KEPT_MS, KEPT_MAX)


def _name(request_id: str, agent: str | None) -> str:
    whose = "" if agent is None else f"{len(agent)}:{agent}"
    return name_of(f"trace {whose} {request_id}")


class RedisTraces(ABC):
    """``TraceStore`` over the queue of the books."""

    @abstractmethod
    def _submit(self, order: "Order") -> "asyncio.Future[Answer]":
        """Queue an order."""

    def keep_trace(self, trace: Trace) -> None:
        """Queue a trace; see ``TraceStore``. One that cannot be written is lost."""
        self._submit(KeepTrace(trace)).add_done_callback(_seen)

    async def find_trace(self, wanted: Wanted) -> Trace | None:
        """Look for a trace; see ``TraceStore``."""
        notes: list[str] = await self._submit(FindTrace(wanted))  # type: ignore[assignment]
        found = unpacked(notes[0]) if notes else None
        if found is None or wanted.agent in {None, found.agent}:
            return found
        return None


def _seen(future: "asyncio.Future[Answer]") -> None:
    future.exception()
