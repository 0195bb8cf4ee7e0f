"""A server that is killed at a chosen point: ``python -m tests.faults.doomed POINT serve ...``.

It is the real command; one function of it is replaced by one that kills the process with SIGKILL,
which nothing can catch. So every run dies at exactly the same point of a task's life.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from escalade_server.api.outbox import Outbox
from escalade_server.cli.main import main
from escalade_server.providers.http import HttpClient, HttpResponse

READS = 3
"""The answer is read so many times before the kill in mid-stream."""
SPARE_BYTES = 64 << 20


def die(*_told: object, **_more: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def starve() -> None:
    """Take memory until there is none; then do what the kernel does."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES,) * 2)
    hoard = []
    try:
        while True:
            hoard.append(bytearray(1 << 20))
    except MemoryError:
        die()


def in_mid_stream(end: Callable[[], None]) -> None:
    """Let some of an answer be read first."""
    read, reads = HttpResponse.read, 0

    async def counted(self: HttpResponse) -> bytes:
        nonlocal reads
        reads += 1
        if reads > READS:
            end()
        return await read(self)

    HttpResponse.read = counted  # type: ignore[method-assign]


def doom(point: str) -> None:
    """Set the point at which the process dies."""
    if point == "before-send":
        HttpClient.open = die  # type: ignore[assignment, method-assign]
    elif point == "mid-stream":
        in_mid_stream(die)
    elif point == "out-of-memory":
        in_mid_stream(starve)
    elif point == "settled":
        Outbox.end = die  # type: ignore[method-assign]
    else:
        raise ValueError(point)


if __name__ == "__main__":
    doom(sys.argv.pop(1))
    main()
