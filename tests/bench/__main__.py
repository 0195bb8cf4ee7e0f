"""``make bench``: what the server costs in CPU µs, as ratios to what was measured in the same run.

``python -m tests.bench [--quick] [--json FILE]``. Counted is the CPU time of one process at a
time, user and system: not that of the load, nor of the provider, which is a mock. Each figure is
the median of rounds in which all subjects take turns, so that a busy machine disturbs all alike.
Only ratios can be compared between machines; no bare time is ever a pass or a fail.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from escalade_server import bootstrap
from escalade_server.engine.clock import SystemClock
from escalade_server.providers.http import HttpClient, HttpLimits
from tests.bench import micro, store, table, traces, watchers
from tests.bench.machine import cpu_us, optimised, rss_mb, unit_us
from tests.bench.mock_provider import Script
from tests.bench.stages import KINDS, Direct, Work
from tests.bench.subjects import Server, Subject, mock, subjects

CHUNKS = 64
PAUSE_MS = 20
ONE = Script(1, 0)
BURST = Script(CHUNKS, 0)
PACED = Script(CHUNKS, PAUSE_MS)
FIRST = Script(2, PAUSE_MS)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    calls: int
    streams: int
    paced: int
    """Paced streams that are open at once."""
    paced_rounds: int
    slow_calls: int
    firsts: int
    held: int
    """Streams held open to see their memory."""
    hold_ms: int
    pairs: int

    kinds: Sequence[str] = KINDS


DEFAULT = Size(3, 320, 48, 64, 1, 100, 30, 500, 2_500, 10_000)
QUICK = Size(1, 240, 24, 32, 1, 0, 8, 100, 700, 1_000, kinds=("empty",))


@dataclass(slots=True)
class Results:
    """All figures of a run; CPU in µs per call unless the name says otherwise."""

    cpu_us: dict[str, dict[str, float]] = field(default_factory=dict)
    """By measurement, then by subject."""
    messages_per_stream: dict[str, float] = field(default_factory=dict)
    """How many gRPC messages the real server's 64 chunks came in."""
    first_token_ms: dict[str, float] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)
    parts_us: dict[str, float] = field(default_factory=dict)
    unit_us: float = 0
    machine: dict[str, str | int] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Everything, for a file."""
        return {name: getattr(self, name) for name in self.__slots__}


async def in_turns(subjects: Sequence[Subject], work: Work, rounds: int) -> dict[str, float]:
    """Median CPU µs per call of each subject."""
    spent: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for _ in range(rounds):
        for subject in subjects:
            spent[subject.name].append(await subject.cost_us(work))
    return {name: statistics.median(figures) for name, figures in spent.items()}


async def calls(
    results: Results, measured: Mapping[str, Subject], provider: Subject, size: Size
) -> None:
    """Whole calls and streams: the CPU of each subject."""
    everyone, cpu = list(measured.values()), results.cpu_us
    ends = [measured[name] for name in ("empty", "direct", "escalade")]
    served = measured["escalade"]
    for subject in everyone:  # warm up: connections, caches, lazy imports
        await subject.work(Work(ONE, 16, 64, streamed=False))
        await subject.work(Work(BURST, 4, 8, streamed=True))
    whole = Work(ONE, 16, size.calls, streamed=False)
    cpu["whole, 16 callers"] = await in_turns(everyone, whole, size.rounds)
    cpu["mock, per whole call"] = {"mock": await _mocked(provider, served, whole)}
    alone = Work(ONE, 1, size.calls // 2, streamed=False)
    cpu["whole, 1 caller"] = await in_turns(everyone, alone, size.rounds)
    if size.slow_calls:
        slow = Work(ONE, 16, size.slow_calls, streamed=False, interval_ms=20)
        cpu["whole, 50 a second"] = await in_turns([measured["empty"], served], slow, 1)
    burst = Work(BURST, 4, size.streams, streamed=True)
    cpu["64-chunk stream, burst"] = await in_turns(ends, burst, size.rounds)
    results.messages_per_stream["burst"] = await _messages(served, burst)
    paced = Work(PACED, size.paced, size.paced, streamed=True)
    cpu["64-chunk stream, paced"] = await in_turns(everyone, paced, size.paced_rounds)
    results.messages_per_stream["paced"] = served.messages / size.paced


async def _messages(subject: Subject, work: Work) -> float:
    done = await subject.work(work)
    return subject.messages / done


async def _mocked(provider: Subject, served: Subject, work: Work) -> float:
    """What the provider itself costs: it must not be what is measured."""
    before = cpu_us(provider.pid)
    done = await served.work(work)
    return (cpu_us(provider.pid) - before) / done


async def first_tokens(results: Results, served: Server, base_url: str, size: Size) -> None:
    """Time to first token, through the server and direct, in turns from this process."""
    through, straight = list[float](), list[float]()
    loop = asyncio.get_running_loop()
    async with HttpClient(HttpLimits()) as http:
        provider = Direct(http, base_url, SystemClock())
        for number in range(size.firsts + 2):
            begun, first = loop.time(), 0.0
            async for piece in provider.pieces(FIRST):
                first = first or (loop.time() if piece else 0.0)
            told = await served.first_delta_ms(FIRST)
            if number >= 2:
                straight.append((first - begun) * 1e3)
                through.append(told)
    for name, figures in (("direct", straight), ("escalade", through)):
        results.first_token_ms[f"{name} p50"] = statistics.median(figures)
        results.first_token_ms[f"{name} p90"] = statistics.quantiles(figures, n=10)[-1]


async def memory(results: Results, served: Server, size: Size) -> None:
    """Resident memory of the server, idle and with streams held open by their provider."""
    idle = rss_mb(served.pid)
    held = Work(Script(2, size.hold_ms), size.held, size.held, streamed=True)
    load, most = asyncio.create_task(served.work(held)), 0.0
    while not load.done():
        most = max(most, rss_mb(served.pid))
        await asyncio.wait((load,), timeout=0.05)
    await load
    results.memory_mb = {"idle": idle, f"{size.held} open streams": most}
    results.memory_mb["kB per stream"] = (most - idle) / size.held * 1_000


async def parts(results: Results, folder: Path, size: Size, *, quick: bool) -> None:
    """What core, codec and store cost by themselves, and the unit to compare them in."""
    before = unit_us()
    results.parts_us = micro.measure(quick=quick) | traces.measure(quick=quick)
    results.parts_us |= watchers.measure(quick=quick)
    for callers in (1, 16):
        path = folder / f"pairs{callers}.sqlite3"
        pairs = size.pairs // (10 if callers == 1 else 1)
        found = await store.run(callers, path, pairs)
        results.parts_us[f"store_pair_{callers}_callers"] = found[1]
    results.unit_us = min(before, unit_us())


async def run(size: Size, *, quick: bool) -> Results:
    """Measure everything."""
    results = Results()
    results.machine = {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count() or 0,
        "optimised_build": optimised(),
    }
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        await parts(results, folder, size, quick=quick)
        provider, base_url = await stack.enter_async_context(mock())
        measured = await stack.enter_async_context(subjects(size.kinds, base_url, folder))
        served = measured["escalade"]
        assert isinstance(served, Server)
        await calls(results, measured, provider, size)
        await first_tokens(results, served, base_url, size)
        await memory(results, served, size)
    return results


def main() -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description="What the server costs, as ratios.")
    parser.add_argument("--quick", action="store_true", help="the short form")
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    chosen = parser.parse_args()
    results = bootstrap.run(run(QUICK if chosen.quick else DEFAULT, quick=chosen.quick))
    print(table.render(results.cpu_us, results.messages_per_stream, results.first_token_ms,
                       results.memory_mb, results.parts_us, results.unit_us,
                       optimised=optimised()))  # fmt: skip
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results.as_json(), indent=2) + "\n")


if __name__ == "__main__":
    main()
