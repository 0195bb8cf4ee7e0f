"""The queue of waiters: `python -m tests.waiters` (`make waiters`)."""

import argparse
import asyncio
import tempfile
from pathlib import Path

from tests.waiters.judge import check, lines
from tests.waiters.queue import Plan, queue


def main() -> None:
    """Run it, print the figures, and fail if they do not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiters", type=int, default=500)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10, help="so many of them by SIGKILL")
    parser.add_argument("--cut-s", type=float, default=15.0, help="a stream lives so long")
    parser.add_argument("--rate", type=int, default=1, help="calls a second in each of 3 layers")
    plan = Plan(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="escalade-waiters-") as folder:
        seen = asyncio.run(queue(Path(folder), plan))
    print(*lines(seen), sep="\n", flush=True)
    check(seen)


if __name__ == "__main__":
    main()
