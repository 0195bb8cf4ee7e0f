"""`escalade serve`, with a probe in its loop: `python -m tests.hostile.served FILE serve ...`.

The server is the product's own, whole. The probe sleeps 20 ms at a time and writes, whenever it was
woken late, how late, how much of that the machine let the loop's thread wait for a processor, and
how long the server's threads worked meanwhile: the loop may wait for one that holds the interpreter
and is itself kept from a processor. On a shared machine only the rest is the server's own doing.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

from escalade_server import bootstrap
from escalade_server.cli.main import main

T = TypeVar("T")
BEAT_S = 0.02
TOLD_MS = 50


def waited_ns(thread: int) -> int:
    """How long a thread has been ready to run, and did not."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1])


async def probe(file: Path) -> None:
    """Beat for ever; one line for each beat that came late."""
    thread = threading.get_native_id()
    with file.open("w") as told:
        while True:
            began, waited = time.monotonic(), waited_ns(thread)
            cpu, process = time.thread_time(), time.process_time()
            await asyncio.sleep(BEAT_S)
            late_ms = (time.monotonic() - began - BEAT_S) * 1_000
            if late_ms < TOLD_MS:
                continue
            line = {
                "at": time.time(),
                "late_ms": round(late_ms),
                "waited_ms": round((waited_ns(thread) - waited) / 1e6),
                "cpu_ms": round((time.thread_time() - cpu) * 1_000),
                "process_ms": round((time.process_time() - process) * 1_000),
            }
            told.write(json.dumps(line) + "\n")
            told.flush()


def with_probe(file: Path) -> None:
    """Make the server's own `run` start the probe beside the server."""
    run = bootstrap.run

    def probed(serving: Coroutine[None, None, T]) -> T:
        async def both() -> T:
            beating = asyncio.create_task(probe(file))
            try:
                return await serving
            finally:
                beating.cancel()

        return run(both())

    bootstrap.run = probed  # type: ignore[assignment]  # generic callables are compared by identity


if __name__ == "__main__":
    with_probe(Path(sys.argv.pop(1)))
    main()
