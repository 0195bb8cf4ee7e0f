"""A server is killed at any instant: nothing acknowledged is lost, nothing held is forgotten."""

import subprocess
import sys
from pathlib import Path

import pytest

from escalade_server.engine.ports import StoreError
from tests.stores import victim
from tests.stores.world import NOW_MS, State, audit, rows

KILLS, BATCHES = 100, 4
UNCERTAIN, ASSUMED, SETTLED = 1, 2, 3
ROOT = Path(__file__).resolve().parents[2]
VICTIM = [sys.executable, "-m", "tests.stores.victim"]


def kill(path: Path, batch: int) -> dict[str, tuple[str, int]]:
    """Kill some workers; answer the last promise that was made for each id."""
    printed = subprocess.run(
        [*VICTIM, "kill", str(path), f"run{batch}", str(batch), str(KILLS // BATCHES)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    lines = [line.split() for line in printed.splitlines()]
    return {id_: (what, int(nanos)) for what, id_, nanos in lines}


async def test_killed_a_hundred_times(tmp_path: Path) -> None:
    """The figures are checked against what the dead had been promised, and against the file."""
    path = tmp_path / "state.db"
    state = State(path)
    promised: dict[str, tuple[str, int]] = {}
    for batch in range(BATCHES):
        promised |= kill(path, batch)
        store = await state.open(*victim.COUNTERS)
        requests, money, _ = state.figures(store, *victim.COUNTERS)
        await store.close()
        audit(path)

    query = "SELECT id, state, used_nanos FROM reservations"
    kept = {str(id_): (state_, used) for id_, state_, used in rows(path, query)}
    assert len(promised) > KILLS
    for id_, (what, nanos) in promised.items():
        if what == "settled":
            assert kept[id_] == (SETTLED, nanos)
        elif what == "uncertain":
            assert kept[id_] == (UNCERTAIN, 0)
        elif kept[id_][0] == ASSUMED:
            assert kept[id_][1] == victim.RESERVED_NANOS
        else:  # the next promise was kept, and nobody heard of it
            assert kept[id_][0] in {UNCERTAIN, SETTLED}
    assert any(state_ == ASSUMED for state_, _ in kept.values())
    unsure = sum(state_ == UNCERTAIN for state_, _ in kept.values())
    assert requests == (len(kept) - unsure, unsure)
    used = sum(int(str(used)) for _, used in kept.values())
    assert money == (used, unsure * victim.RESERVED_NANOS)

    state.clock.at_ms = NOW_MS + victim.HOLD_MS
    store = await state.open(*victim.COUNTERS)
    assert state.figures(store, victim.COUNTERS[0]) == [(len(kept), 0)]
    await state.close()


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """S6, P18: and let in at once when the first one is dead."""
    path = tmp_path / "state.db"
    state = State(path)
    with subprocess.Popen(  # noqa: ASYNC220  # there is nothing else on this loop
        [*VICTIM, "hold", str(path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=f"in use by process {holder.pid}:.* one server"):
            await state.open(*victim.COUNTERS)
        holder.kill()
    await state.open(*victim.COUNTERS)
    await state.close()
