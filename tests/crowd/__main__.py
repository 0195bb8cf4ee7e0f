"""The whole crowd: `python -m tests.crowd --store sqlite --store redis` (`make crowd`)."""

import argparse
import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.crowd.crowd import CAP_NANOS, crowd
from tests.stores.servers import serving


def main() -> None:
    """Run it on each store, print the figures, and fail if they do not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", action="append", choices=["sqlite", "redis", "valkey"])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--callers", type=int, default=200, help="for each process")
    parser.add_argument("--seconds", type=float, default=300.0, help="at most")
    told = parser.parse_args()
    for store in told.store or ["sqlite", "redis"]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            state = None
            if store != "sqlite":
                settings = ("--maxmemory-policy", "noeviction")
                state = stack.enter_context(serving(store, folder, *settings)).url
            figures = asyncio.run(
                crowd(
                    folder, state=state, processes=told.processes,
                    callers=told.processes * told.callers, cap_nanos=CAP_NANOS,
                    seconds=told.seconds,
                )
            )  # fmt: skip
        print(f"{store}: {told.processes} processes, {told.callers} callers each")
        print(figures.lines(), flush=True)
        figures.check()


if __name__ == "__main__":
    main()
