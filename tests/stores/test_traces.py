"""Traces are kept for a day and by number, found by either id, and told to their agent only."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from escalade_server.engine.traces import (
    KEPT_MS,
    Trace,
    TraceEvent,
    TraceSpan,
    TraceStore,
    Wanted,
)
from escalade_server.stores import redis_traces, traces
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.sqlite import SqliteStore
from escalade_server.stores.traces import packed, unpacked
from tests.stores.world import NOW_MS, State, state_in

SPAN = TraceSpan(
    "00f067aa0ba902b7", "", "task", NOW_MS - 900, NOW_MS, {"escalade.layer": "free → ünïcode"},
    (TraceEvent("escalade.first_chunk", NOW_MS - 500, {"a": "b"}),), failed=True, detail="429",
)  # fmt: skip
ONE = Trace(
    "4bf92f3577b34da6a3ce929d0e0e4736",
    "task-1",
    "bo",
    NOW_MS,
    "A story.",
    answered=True,
    spans=(SPAN,),
)


@pytest.fixture(params=["sqlite", "redis", "valkey", "memory"])
async def state(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[State]:
    state = state_in(request, tmp_path)
    yield state
    await state.close()


async def opened(state: State) -> SqliteStore | RedisStore:
    store = await state.open()
    assert isinstance(store, SqliteStore | RedisStore)
    return store


async def keep(store: SqliteStore | RedisStore, *kept: Trace) -> None:
    """Keep traces, and return when they are written."""
    for trace in kept:
        store.keep_trace(trace)
    await store.entries(0, 0)


async def find(store: TraceStore, **wanted: str) -> Trace | None:
    return await store.find_trace(Wanted(**wanted))


def test_what_is_packed_is_unpacked_and_rubbish_is_none() -> None:
    assert unpacked(packed(ONE)) == ONE
    assert len(packed(replace(ONE, spans=(SPAN,) * 100))) < 2_000
    for text in ("", "x", "ä", packed(ONE)[:-9]):
        assert unpacked(text) is None


async def test_a_trace_is_found_by_either_id(state: State) -> None:
    store = await opened(state)
    await keep(store, ONE)
    assert await find(store, request_id="task-1") == ONE
    assert await find(store, trace_id=ONE.trace_id) == ONE
    assert await find(store, request_id="task-2") is None
    assert await find(store, trace_id="0" * 32) is None


async def test_an_agent_finds_its_own_even_under_an_id_that_another_uses(state: State) -> None:
    store = await opened(state)
    other = replace(ONE, trace_id="a" * 32, agent="eve")
    await keep(store, ONE, other)
    assert await find(store, request_id="task-1", agent="bo") == ONE
    assert await find(store, request_id="task-1", agent="eve") == other
    assert await find(store, request_id="task-1") == other  # the newest
    assert await find(store, request_id="task-1", agent="") is None
    assert await find(store, trace_id=ONE.trace_id, agent="bo") == ONE
    assert await find(store, trace_id=ONE.trace_id, agent="eve") is None


async def test_of_several_tasks_with_one_id_the_newest_is_meant(state: State) -> None:
    store = await opened(state)
    later = replace(ONE, trace_id="b" * 32, at_ms=NOW_MS + 1)
    await keep(store, ONE, later)
    assert await find(store, request_id="task-1") == later
    assert await find(store, trace_id=ONE.trace_id) == ONE


async def test_the_oldest_go_when_there_are_too_many(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (traces, redis_traces):
        monkeypatch.setattr(module, "KEPT_MAX", 10)
    monkeypatch.setattr(traces, "PURGE_EVERY", 1)
    store = await opened(state)
    many = [
        replace(ONE, trace_id=f"{number:032x}", request_id=f"r{number}", at_ms=NOW_MS + number)
        for number in range(30)
    ]
    for trace in many:
        state.clock.at_ms = trace.at_ms
        await keep(store, trace)
    found = [await find(store, trace_id=trace.trace_id) for trace in many]
    assert [trace.request_id for trace in found if trace is not None] == [
        f"r{number}" for number in range(20, 30)
    ]


async def test_a_day_later_it_is_gone_from_a_file(tmp_path: Path) -> None:
    state = State(tmp_path / "s.db")
    store = await opened(state)
    await keep(store, ONE)
    state.clock.at_ms = NOW_MS + KEPT_MS - 1
    assert await find(store, request_id="task-1") == ONE
    state.clock.at_ms = NOW_MS + KEPT_MS
    assert await find(store, request_id="task-1") is None
    await state.close()


async def test_it_outlives_the_store(tmp_path: Path) -> None:
    state = State(tmp_path / "s.db")
    store = await opened(state)
    store.keep_trace(ONE)
    await state.close()
    state.open_stores.clear()
    again = await opened(state)
    assert await find(again, request_id="task-1") == ONE
    await state.close()
