"""Processes to be killed: ``python -m tests.stores.victim kill|hold FILE NAME [SEED TIMES]``.

``kill`` forks workers that reserve and settle, kills each after a while, and prints what it had
promised. ``hold`` keeps the file open until its input ends.
"""

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

from escalade_server.core.catalog import Period, Unit
from escalade_server.core.events import Reserved
from tests.stores.world import HandClock, State, candidate, counter, reserve, settle

COUNTERS = (
    counter("requests", 1_000_000),
    counter("money", 1_000_000_000, Unit.NANOS, Period.MONTH),
    counter("minutely", 1_000_000, period=Period.MINUTE),
)
RESERVED_NANOS = 500
HOLD_MS = 1_000_000
LONGEST_S = 0.06


async def work(path: Path, pipe: int, name: str) -> None:
    """Reserve and settle for ever; what is written to the pipe was acknowledged before."""
    clock = HandClock()
    store = await State(path, clock).open(*COUNTERS)
    order = candidate(*COUNTERS, nanos=RESERVED_NANOS)

    async def caller(number: int) -> None:
        for turn in range(1_000_000):
            id_ = f"{name}-{number}-{turn}"
            nanos = (number + turn) % RESERVED_NANOS
            answer = await store.reserve(reserve(id_, order), clock.now_ms())
            assert isinstance(answer, Reserved)
            os.write(pipe, f"reserved {id_} {RESERVED_NANOS}\n".encode())
            if turn % 7 == 5:
                continue  # never settled: an orphan
            if turn % 7 == 6:
                until = clock.now_ms() + HOLD_MS
                await store.settle(settle(id_, hold_until_ms=until), clock.now_ms())
                os.write(pipe, f"uncertain {id_} {RESERVED_NANOS}\n".encode())
            else:
                await store.settle(settle(id_, nanos=nanos), clock.now_ms())
                os.write(pipe, f"settled {id_} {nanos}\n".encode())

    await asyncio.gather(*(caller(number) for number in range(4)))


def kill(path: Path, name: str, seed: int, times: int) -> None:
    """Kill so many workers, one after the other, each at some instant of its life."""
    chance = random.Random(seed)
    for number in range(times):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(work(path, write, f"{name}-{number}"))
            finally:
                os._exit(1)
        os.close(write)
        time.sleep(chance.random() * LONGEST_S)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with os.fdopen(read) as pipe:
            sys.stdout.write(pipe.read())


async def hold(path: Path) -> None:
    """Keep the file open until there is no more input."""
    state = State(path)
    await state.open(*COUNTERS)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    sys.stdin.read()
    await state.close()


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        asyncio.run(hold(Path(sys.argv[2])))
    else:
        kill(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
