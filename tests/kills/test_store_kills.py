"""A store is killed at KILLS points: nothing acknowledged is lost, overspent, damaged or forgotten.

``KILLS=10000`` is the full campaign. Each life goes by its number, so that ``KILL=4711`` begins
with the file in which that one failed.
"""

import asyncio
import gc
import os
import select
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from escalade_server.engine.calendar import Calendar
from escalade_server.stores.rows import State
from escalade_server.stores.spill import Spill
from escalade_server.stores.sqlite import SPILL, SqliteStore
from tests.kills import victim
from tests.kills.victim import CAP_NANOS, COUNTERS, LIFE_MS, RESERVED_NANOS, At, Plan
from tests.stores.world import NOW_MS, HandClock, audit, rows

KILLS = int(os.environ.get("KILLS", "500"))
FIRST = int(os.environ.get("KILL", "0"))
LIVES = 40
"""One file sees so many lives, until its cap is used up."""
LONGEST_S = 0.1
"""A life that is counted in steps, but comes to few because the cap is used up, ends here."""
OPENS_S = 10.0


@dataclass
class Heard:
    """What was promised, by id: the last word and its figure."""

    promises: dict[str, tuple[str, int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def hear(self, text: str) -> None:
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n"):
                continue  # torn: nobody has heard it
            id_, word, nanos = line.split(maxsplit=2)
            assert word != "mistake", line
            self.counts[word] += 1
            if word not in {"open", "denied", "failed"}:
                self.promises[id_] = word, int(nanos)


def kill(path: Path, plan: Plan) -> tuple[str, bool]:
    """Live one life; answer what it was promised, and whether it ended where it was to."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        victim.run(path, plan, write)
    os.close(write)
    longest_s = plan.steps / 1e6 if plan.at is At.TIME else LONGEST_S
    ends = time.monotonic() + (OPENS_S if plan.from_open else longest_s)
    text = b""
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while (left := ends - time.monotonic()) > 0:
            ready, _, _ = select.select([pipe], [], [], left)
            some = pipe.read(65_536) if ready else b""
            if plan.from_open and not text:
                ends = time.monotonic() + longest_s
            text += some
            if ready and not some:
                break
        in_time = plan.at is At.TIME or left > 0
        os.kill(child, signal.SIGKILL)
        text += pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return text.decode(), in_time and code == -signal.SIGKILL


def check(path: Path, heard: Heard) -> None:
    """Hold the file, and its journal, against what was promised."""
    if not path.exists() or not rows(path, "SELECT 1 FROM sqlite_schema"):
        assert not heard.promises
        return
    audit(path)
    kept = {
        str(id_): (State(int(str(state))), int(str(used)))
        for id_, state, used in rows(path, "SELECT id, state, used_nanos FROM reservations")
    }
    journal = Spill(f"{path}{SPILL}")
    waiting = {order.reservation_id: order for order in journal.open()}
    journal.close()
    assert journal.damaged == 0
    for id_, (word, nanos) in heard.promises.items():
        state, used = kept[id_]
        if order := waiting.get(id_):
            assert word != "settled" or order.nanos == nanos, id_
            assert word != "uncertain" or order.hold_until_ms is not None, id_
        elif word == "settled":
            assert (state, used) == (State.SETTLED, nanos), id_
        elif word == "uncertain":
            assert (state, used) in {(State.UNCERTAIN, 0), (State.ASSUMED, RESERVED_NANOS)}, id_
        elif word == "assumed":  # and perhaps what came next, of which nobody has heard
            assert state in {State.ASSUMED, State.SETTLED}, id_
            assert state is State.SETTLED or used == RESERVED_NANOS, id_
        elif state is State.ASSUMED:
            assert used == RESERVED_NANOS, id_
    [(worst,)] = rows(
        path, "SELECT max(spent + held) FROM windows JOIN counters ON counter = id"
        " WHERE key = 'money'",
    )  # fmt: skip
    assert int(str(worst or 0)) <= CAP_NANOS


async def recover(path: Path, number: int) -> None:
    """Open the file as the next start does, which books the orphans in full, and close it."""
    clock = HandClock(NOW_MS + number * LIFE_MS)
    store = SqliteStore(path, clock, Calendar())
    await store.open(COUNTERS)
    await store.close()
    store._thread.join()  # a process with threads cannot be forked


def bury(path: Path, heard: Heard, number: int, totals: Counter[str]) -> None:
    """Close a file for good: nothing is open, and all that was promised is booked, once."""
    asyncio.run(recover(path, number))
    check(path, heard)
    query = "SELECT state, used_nanos FROM reservations WHERE id = ?"
    for id_, (word, _) in heard.promises.items():
        [(state, used)] = rows(path, query, id_)
        assert state != State.OPEN
        totals[f"{word}, now {State(int(str(state))).name.lower()}"] += 1
        assert word != "reserved" or state != State.ASSUMED or used == RESERVED_NANOS
    for file in path.parent.iterdir():
        file.unlink()


def test_a_store_killed_at_any_point_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    totals: Counter[str] = Counter()
    began = time.monotonic()
    gc.collect()
    gc.freeze()
    heard = Heard()
    path = tmp_path / "state.db"
    for number in range(FIRST - FIRST % LIVES, FIRST + KILLS):
        plan = victim.plan(number)
        text, in_time = kill(path, plan)
        try:
            heard.hear(text)
            check(path, heard)
        except AssertionError as error:
            error.add_note(f"KILL={number}: {plan}")
            raise
        totals["kills"] += 1
        totals[f"at {plan.at.value}"] += in_time
        totals["before it was open"] += "- open" not in text
        if number % LIVES == LIVES - 1 or number == FIRST + KILLS - 1:
            bury(path, heard, number + 1, totals)
            totals.update(heard.counts)
            heard = Heard()
    gc.unfreeze()
    took = time.monotonic() - began
    with capsys.disabled():
        figures = "\n".join(f"  {count:8,}  {what}" for what, count in totals.items())
        print(f"\n{figures}\n  {took:8.0f}  s")  # noqa: T201  # the campaign's product
    assert totals["settled"] > KILLS // 2
    assert totals["denied"] > 0, "the cap is in reach"
