"""Sessions outlive the store, end by themselves, and are bounded (R29)."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from escalade_server.core.session import Session, Struggle
from escalade_server.engine.sessions import SessionStore
from escalade_server.stores import redis_sessions, sessions
from escalade_server.stores.leased import LeasedStore
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.sessions import SessionKeeper, from_text, to_text
from escalade_server.stores.sqlite import SqliteStore
from escalade_server.stores.sqlite_orders import Answer, Order
from tests.stores.world import KEEPING, NOW_MS, State, candidate, counter, state_in

HOUR_MS = 3_600_000
AnyStore = SqliteStore | RedisStore | LeasedStore
FULL = Session(
    "budget", "nano-gpt/default/glm", 2, 1, Struggle.GATE_FAILED, 2**64 - 1, (1, 2**64 - 1),
    NOW_MS, NOW_MS + HOUR_MS,
)  # fmt: skip


@pytest.fixture(params=[*KEEPING, "memory"])
async def state(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[State]:
    state = state_in(request, tmp_path)
    yield state
    await state.close()


@pytest.fixture(params=KEEPING)
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[State]:
    """A state that outlives the store."""
    state = state_in(request, tmp_path)
    yield state
    await state.close()


async def opened(state: State) -> AnyStore:
    store = await state.open()
    assert isinstance(store, AnyStore)
    return store


async def anew(state: State) -> AnyStore:
    """Open the state with nothing known by heart."""
    await state.close()
    state.open_stores.clear()
    return await opened(state)


async def keep(store: SessionStore, key: str, session: Session = FULL, agent: str = "a") -> None:
    await store.keep_session(key, agent, session, NOW_MS)


async def test_what_was_kept_is_answered_and_nothing_else(state: State) -> None:
    store = await opened(state)
    assert await store.session("k", NOW_MS) is None
    await keep(store, "k")
    assert await store.session("k", NOW_MS) == FULL
    assert await store.session("other", NOW_MS) is None


async def test_a_session_outlives_the_store(kept: State) -> None:
    await keep(await opened(kept), "k")
    assert await (await anew(kept)).session("k", NOW_MS) == FULL


async def test_a_session_is_over_when_its_time_is(kept: State) -> None:
    store = await opened(kept)
    await keep(store, "k")
    for _ in range(2):
        assert await store.session("k", NOW_MS + HOUR_MS - 1) == FULL
        assert await store.session("k", NOW_MS + HOUR_MS) is None
        store = await anew(kept)


async def test_an_older_state_never_replaces_a_newer_one(kept: State) -> None:
    store = await opened(kept)
    newer = replace(FULL, raised=0, seen_ms=NOW_MS + 1)
    await keep(store, "k", newer)
    await keep(store, "k", FULL)
    assert await (await anew(kept)).session("k", NOW_MS) == newer


async def test_the_oldest_sessions_of_an_agent_go_first(
    kept: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "AGENT_MAX", 3)
    monkeypatch.setattr(redis_sessions, "AGENT_MAX", 3)
    store = await opened(kept)
    await keep(store, "other", agent="b")
    for number in range(6):
        kept.clock.at_ms = at_ms = NOW_MS + 1 + number
        told = replace(FULL, seen_ms=at_ms, until_ms=at_ms + HOUR_MS)
        await keep(store, f"k{number}", told)
    store = await anew(kept)
    left = [n for n in range(6) if await store.session(f"k{n}", NOW_MS) is not None]
    assert left == [3, 4, 5]
    assert await store.session("other", NOW_MS) == FULL


async def test_all_agents_together_have_a_bound(
    kept: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "TOTAL_MAX", 2)
    monkeypatch.setattr(redis_sessions, "TOTAL_MAX", 2)
    store, daily = await opened(kept), counter("daily", 50)
    for number in range(4):
        kept.clock.at_ms = at_ms = NOW_MS + number
        told = replace(FULL, seen_ms=at_ms, until_ms=at_ms + HOUR_MS)
        await keep(store, f"k{number}", told, agent=f"agent {number}")
    kept.clock.at_ms += 120_000  # SQLite cleans up once a minute
    await kept.take(store, candidate(daily))
    store = await anew(kept)
    left = [n for n in range(4) if await store.session(f"k{n}", NOW_MS) is not None]
    assert left == [2, 3]


async def test_what_is_over_leaves_the_file(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    store, daily = await opened(state), counter("daily", 50)
    await keep(store, "k")
    state.clock.at_ms += HOUR_MS
    await state.take(store, candidate(daily))
    await state.close()
    connection = apsw.Connection(str(state.path))
    assert connection.execute("SELECT count(*) FROM sessions").get == 0
    connection.close()


async def test_no_text_is_kept(tmp_path: Path) -> None:
    """What stands in the file is what ``Session`` holds: hashes, counters, names of our own."""
    state = State(tmp_path / "state.db")
    await keep(await opened(state), "k")
    await state.close()
    connection = apsw.Connection(str(state.path))
    [row] = connection.execute("SELECT * FROM sessions").fetchall()
    connection.close()
    assert row == ("k", "a", NOW_MS, NOW_MS + HOUR_MS, to_text(FULL))


def test_what_another_version_wrote_is_as_good_as_none() -> None:
    assert from_text(to_text(FULL)) == FULL
    assert from_text('{"raised": "high"}') is None
    assert from_text("") is None


class Asked(SessionKeeper):
    """Counts what goes to the file."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__(alone=alone)
        self.orders: list[Order] = []

    def _submit(self, order: Order, now_ms: int) -> "asyncio.Future[Answer]":
        del now_ms
        self.orders.append(order)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


@pytest.mark.parametrize("alone", [True, False])
async def test_only_who_shares_the_file_asks_at_each_step(alone: bool) -> None:  # noqa: FBT001
    store = Asked(alone=alone)
    for _ in range(3):
        await store.session("k", NOW_MS)
        await keep(store, "k")
    asked = [order for order in store.orders if isinstance(order, sessions.Recall)]
    assert len(asked) == (1 if alone else 3)


async def test_what_is_known_by_heart_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "KNOWN_MAX", 2)
    store = Asked(alone=True)
    for key in ("a", "b", "a", "c"):
        await keep(store, key)
    store.orders.clear()
    assert [await store.session(key, NOW_MS) for key in "abc"] == [FULL, None, FULL]
    assert [order for order in store.orders if isinstance(order, sessions.Recall)] == [
        sessions.Recall("b")
    ]
