"""``make sim``: runs seeds, tells how far it is, and what was found.

``python -m tests.simulation [--seeds N] [--from N] [--seed N] [--workers N]``
"""

import argparse
import multiprocessing
import os
import resource
import sys
import time
from collections import Counter as Tally
from collections.abc import Iterator
from typing import NamedTuple

from escalade_server.simulation.trace import worded
from escalade_server.simulation.trial import run

SEEDS = 400
CHUNK = 100
TAIL = 40
FINDINGS_MAX = 10


class Found(NamedTuple):
    """A seed that breaks a promise, with the end of its trace."""

    seed: int
    violation: str
    tail: tuple[str, ...]


class Done(NamedTuple):
    """What came of a chunk of seeds."""

    seeds: int
    figures: Tally[str]
    found: list[Found]


def chunk(seeds: range) -> Done:
    """Run some seeds."""
    figures: Tally[str] = Tally()
    found = []
    for seed in seeds:
        verdict = run(seed)
        figures.update(verdict.figures)
        if verdict.violation:
            tail = tuple([worded(line) for line in verdict.lines[-TAIL:]])
            found.append(Found(seed, verdict.violation, tail))
    return Done(len(seeds), figures, found)


def chunks(begin: int, count: int) -> Iterator[range]:
    """Cut seeds into chunks."""
    for start in range(begin, begin + count, CHUNK):
        yield range(start, min(start + CHUNK, begin + count))


def told(found: Found) -> str:
    """Put a finding into words, with the command that plays it again."""
    return "\n".join([*found.tail, f"{found.violation}\nagain: make sim SEED={found.seed}"])


def one(seed: int) -> int:
    """Print the whole trace of one seed."""
    verdict = run(seed)
    for line in verdict.lines:
        print(worded(line))
    print(verdict.violation or f"seed {seed}: every promise held")
    return int(bool(verdict.violation))


def many(begin: int, count: int, workers: int) -> int:
    """Run many seeds on all processors."""
    began, figures, found, done = time.monotonic(), Tally[str](), 0, 0
    with multiprocessing.Pool(workers) as pool:
        for part in pool.imap_unordered(chunk, chunks(begin, count)):
            done += part.seeds
            figures.update(part.figures)
            for finding in part.found:
                found += 1
                if found <= FINDINGS_MAX:
                    print(told(finding), flush=True)
            if done % 5_000 < part.seeds:
                took = time.monotonic() - began
                print(f"{done:>7} seeds, {found} violations, {took:.0f} s", flush=True)
        pool.close()
        pool.join()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s, wall_s = usage.ru_utime + usage.ru_stime, time.monotonic() - began
    for name, number in sorted(figures.items()):
        print(f"{name:<28}{number:>12,}")
    print(f"seeds {begin} to {begin + count - 1}: {found} violations")
    print(f"{wall_s:.0f} s wall, {cpu_s:.0f} s CPU, {1000 * cpu_s / count:.1f} ms CPU a seed")
    return int(bool(found))


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--from", type=int, default=0, dest="begin")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.seed is not None:
        return one(options.seed)
    return many(options.begin, options.seeds, options.workers)


if __name__ == "__main__":
    sys.exit(main())
