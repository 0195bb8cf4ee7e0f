"""What every store must know of request ids that come again (R27): part of the contract."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from escalade_server.core.commands import Reserve, Settle
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.failure import DAY_MS
from escalade_server.core.task import Basis, Usage
from escalade_server.core.trace import Figures
from escalade_server.engine.ports import Booking, Store
from escalade_server.stores.schema import MIGRATIONS, migrate
from tests.stores.world import (
    KEEPING,
    LEASED,
    NOW_MS,
    State,
    candidate,
    counter,
    rows,
    settle,
    state_in,
)

DAILY = counter("daily", 999)
FIGURES = Figures(Usage(12, 34, 5, 6, 7), 8_000, 7_000, NOW_MS - 50, NOW_MS)
KEY = "p/a/m0"


@pytest.fixture(params=[*KEEPING, *LEASED, "memory"])
async def state(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[State]:
    state = state_in(request, tmp_path)
    yield state
    await state.close()


@pytest.fixture(params=[*KEEPING, *LEASED])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[State]:
    """A state that outlives the store."""
    state = state_in(request, tmp_path)
    yield state
    await state.close()


def claim(id_: str, request_id: str = "r", content: str = "abc", agent: str = "bot") -> Reserve:
    made = Reserve(id_, 1, (candidate(DAILY),), agent)
    return replace(made, request_id=request_id, content=content)


def answered(id_: str) -> Settle:
    return replace(settle(id_), figures=FIGURES)


async def answer(store: Store, id_: str = "t1", **fields: str) -> None:
    """Reserve under a request id, which must work, and settle with an answer."""
    assert isinstance(await store.reserve(claim(id_, **fields), NOW_MS), Reserved)
    await store.settle(answered(id_), NOW_MS)


async def test_an_answered_id_is_told_its_figures_and_holds_nothing(state: State) -> None:
    store = await state.open(DAILY)
    await answer(store)
    again = await store.reserve(claim("t2"), NOW_MS)
    assert again == Repeated(1, KEY, FIGURES)
    assert state.figures(store, DAILY) == [(1, 0)]
    assert await store.find("t2") is None


async def test_an_answered_id_is_told_so_where_nothing_has_room(state: State) -> None:
    store = await state.open(DAILY)
    await answer(store)
    full = (candidate(counter("daily", 1)),)
    assert isinstance(await store.reserve(replace(claim("t2"), candidates=full), NOW_MS), Repeated)
    denied = await store.reserve(replace(claim("t3", "new"), candidates=full), NOW_MS)
    assert isinstance(denied, ReservationDenied)


async def test_other_content_is_refused_answered_or_not(state: State) -> None:
    store = await state.open(DAILY)
    await store.reserve(claim("t1"), NOW_MS)
    running = await store.reserve(claim("t2", content="xyz"), NOW_MS)
    await store.settle(settle("t1", requests=0, tokens=0, nanos=0, basis=Basis.NONE), NOW_MS)
    failed = await store.reserve(claim("t3", content="xyz"), NOW_MS)
    await answer(store, "t4")
    done = await store.reserve(claim("t5", content="xyz"), NOW_MS)
    assert [running, failed, done] == [Repeated(1)] * 3


async def test_an_id_without_an_answer_may_run_again(state: State) -> None:
    store = await state.open(DAILY)
    await store.reserve(claim("t1"), NOW_MS)
    await store.settle(settle("t1"), NOW_MS)  # charged, but no answer
    assert isinstance(await store.reserve(claim("t2"), NOW_MS), Reserved)
    await store.settle(answered("t2"), NOW_MS)
    assert state.figures(store, DAILY) == [(2, 0)]
    assert isinstance(await store.reserve(claim("t3"), NOW_MS), Repeated)


async def test_r21_an_answer_that_stands_in_marks_its_id_and_books_nothing_more(
    kept: State,
) -> None:
    """It was settled as rejected; later it is all that there is, also after a restart."""
    store = await kept.open(DAILY)
    await store.reserve(claim("t.1"), NOW_MS)
    await store.settle(settle("t.1"), NOW_MS)
    booked = kept.figures(store, DAILY)
    await store.settle(answered("t.1"), NOW_MS)
    assert kept.figures(store, DAILY) == booked
    assert isinstance(await store.reserve(claim("t2"), NOW_MS), Repeated)
    await store.close()
    again = await kept.open(DAILY)
    assert await again.reserve(claim("t3"), NOW_MS) == Repeated(1, KEY, FIGURES)
    assert kept.figures(again, DAILY) == booked


async def test_attempts_of_one_task_share_their_id(state: State) -> None:
    """The task that runs has the id already; the same reservation twice is still one."""
    store = await state.open(DAILY)
    first, second = claim("t.1"), claim("t.2")
    answers = [await store.reserve(order, NOW_MS) for order in (first, second, second, first)]
    assert all(isinstance(each, Reserved) for each in answers)
    assert state.figures(store, DAILY) == [(0, 2)]


async def test_an_id_is_its_agents_own(state: State) -> None:
    store = await state.open(DAILY)
    await answer(store)
    others = [claim("t2", agent="other", content="xyz"), claim("t3", agent=""), claim("t4", "r2")]
    for order in others:
        assert isinstance(await store.reserve(order, NOW_MS), Reserved)


async def test_without_an_id_nothing_is_claimed(state: State) -> None:
    store = await state.open(DAILY)
    for id_ in ("t1", "t2"):
        order = claim(id_, request_id="", content="")
        assert isinstance(await store.reserve(order, NOW_MS), Reserved)
        await store.settle(settle(id_), NOW_MS)


async def test_an_id_is_free_again_after_a_day(state: State) -> None:
    store = await state.open(DAILY)
    await answer(store)
    state.clock.at_ms = NOW_MS + DAY_MS - 1
    assert isinstance(await store.reserve(claim("t2", content="xyz"), state.clock.at_ms), Repeated)
    state.clock.at_ms = NOW_MS + DAY_MS
    assert isinstance(await store.reserve(claim("t3", content="xyz"), state.clock.at_ms), Reserved)


async def test_a_late_report_answers_the_id(state: State) -> None:
    """Booked at the reserve, because nobody reported; then the caller says that it worked."""
    store = await state.open(DAILY)
    await store.reserve(replace(claim("t1"), routed=True), NOW_MS)
    await store.settle(settle("t1", basis=Basis.RESERVED), NOW_MS)
    await store.settle(replace(answered("t1"), digest="d"), NOW_MS)
    assert await store.reserve(claim("t2"), NOW_MS) == Repeated(1, KEY, FIGURES)


async def test_many_at_once_in_one_batch(state: State) -> None:
    """A settlement and the next claim may be served in one transaction."""
    store = await state.open(DAILY)
    orders = [store.reserve(claim(f"t{n}", f"r{n}"), NOW_MS) for n in range(100)]
    settles = [store.settle(answered(f"t{n}"), NOW_MS) for n in range(0, 100, 2)]
    repeats = [store.reserve(claim(f"u{n}", f"r{n}"), NOW_MS) for n in range(100)]
    for order in orders:
        assert isinstance(await order, Reserved)
    for done in settles:
        await done
    found = [isinstance(await repeat, Repeated) for repeat in repeats]
    assert found == [n % 2 == 0 for n in range(100)]


@pytest.mark.fault("X3")
async def test_a_dead_owner_leaves_its_answers_and_frees_the_rest(kept: State) -> None:
    store = await kept.open(DAILY)
    await answer(store, "t1", request_id="done")
    await store.reserve(claim("t2", "flying"), NOW_MS)
    await store.close()
    store = await kept.open(DAILY)
    assert await store.reserve(claim("t3", "done"), NOW_MS) == Repeated(1, KEY, FIGURES)
    assert isinstance(await store.reserve(claim("t4", "flying"), NOW_MS), Reserved)
    other = await store.reserve(claim("t5", "flying", content="xyz"), NOW_MS)
    assert other == Repeated(1)
    await store.settle(answered("t4"), NOW_MS)
    await store.close()
    if kept.path is None:
        return
    # Both runs are listed under the one id, the first booked in full.
    listed = "SELECT id, used_requests, figures <> '' FROM reservations WHERE request_id = ?"
    assert rows(kept.path, listed, "flying") == [("t2", 1, 0), ("t4", 1, 1)]


@pytest.mark.fault("S5")
async def test_a_file_of_before_is_brought_forward(tmp_path: Path) -> None:
    """Its reservations claim nothing; they are booked and found as ever."""
    kept = State(tmp_path / "state.db")
    assert kept.path is not None
    connection = apsw.Connection(str(kept.path))
    migrate(connection, MIGRATIONS[:1])
    connection.execute("INSERT INTO owners VALUES (7, ?)", (NOW_MS,))
    connection.execute(
        "INSERT INTO reservations VALUES"
        " (1, 'old', 7, ?, 0, 0, 100, 10, '', ?, 0, 0, 0, 0, 'bot', 0, '')",
        (KEY, NOW_MS),
    )
    connection.close()
    store = await kept.open(DAILY)
    old = await store.find("old")
    assert old is not None
    assert (old.agent, old.state, old.nanos) == ("bot", Booking.ASSUMED, 10)
    assert isinstance(await store.reserve(claim("t1"), NOW_MS), Reserved)
