"""Sixty bad inputs of rows U and C, many in flight of each, against one real server.

`python -m tests.hostile --calls 50` (`make hostile`). All the while a well-behaved caller asks a
healthy model. It holds when the server's memory grows by no more than 200 MB, its event loop never
stalls for more than 250 ms of its own doing, and the other caller sees no error.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.hostile.callers import INPUTS, Input, Target
from tests.hostile.provider import SCRIPTS

GROWTH_MB_MAX = 200
STALL_MS_MAX = 250
SAMPLE_S = 0.05
INPUT_S_MAX = 60.0
GOOD_PAUSE_S = 0.02
START_S = 60.0
GOOD = "well"
PATIENCE = ", timeouts: {first_token: 30s, total: 60s}"

STRATEGY = """\
fallback_strategy:
  layers:
    - name: all
      priority: 1
      models:
{models}
  failure_handling: {{on_all_layers_exhausted: fail}}
providers:
{providers}
circuit_breaker: {{failures: 1000000}}
timeouts: {{first_token: 2s, idle: 2s, total: 4s}}
"""


def strategy(port: int, well_port: int) -> str:
    """One model, and one provider, for each script; the good one has a process of its own."""
    models = "".join(
        f"        - {{provider: p-{name}, model: {name}, price: {{input: 1, output: 2}}}}\n"
        for name in SCRIPTS
    )
    providers = "".join(
        f"  p-{name}: {{base_url: 'http://127.0.0.1:"
        f"{well_port if name == GOOD else port}/{name}/v1',"
        f" dialect: openai, api_key_env: KEY{PATIENCE if name == GOOD else ''}}}\n"
        for name in SCRIPTS
    )
    return STRATEGY.format(models=models.rstrip(), providers=providers.rstrip())


@dataclass(slots=True)
class Watch:
    """What is seen of the server from outside."""

    pid: int
    idle_kb: int = 0
    peak_kb: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    """When each input was first in flight."""
    now: str = ""

    def rss_kb(self) -> int:
        """Resident memory of the server."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") // 1_024

    def at(self, second: float) -> str:
        """Which input was in flight then."""
        begun = [(since, name) for name, since in self.begun.items() if since <= second]
        return max(begun)[1] if begun else "the start"

    async def run(self) -> None:
        """Sample for ever."""
        while True:
            rss = self.rss_kb()
            self.peak_kb = max(self.peak_kb, rss)
            self.peaks[self.now] = max(self.peaks.get(self.now, 0), rss)
            await asyncio.sleep(SAMPLE_S)


@dataclass(slots=True)
class Well:
    """The other caller: one call after another, and every error it saw."""

    took_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    async def run(self, target: Target, watch: Watch) -> None:
        """Call for ever."""
        async with target.channel() as channel:
            while True:
                began = time.monotonic()
                told = await target.complete(channel, target.asking(GOOD), deadline_s=30.0)
                self.took_ms.append((time.monotonic() - began) * 1_000)
                if told != "OK":
                    self.errors.append(f"{told} at {watch.now}")
                await asyncio.sleep(GOOD_PAUSE_S)


@asynccontextmanager
async def process(*command: str, log: Path) -> AsyncIterator[tuple[int, bytes]]:
    """Run a process of our own: its id, and the first line it prints."""
    with log.open("wb") as stderr:
        made = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *command,
            stdout=asyncio.subprocess.PIPE, stderr=stderr, env=os.environ | {"KEY": "made-up"},
        )  # fmt: skip
    try:
        assert made.stdout is not None
        line = await asyncio.wait_for(made.stdout.readline(), START_S)
        assert line, "it did not start: see its log"
        yield made.pid, line
        assert made.returncode is None, "it must outlive everything"
        made.send_signal(signal.SIGTERM)
        await asyncio.wait_for(made.wait(), START_S)
    finally:
        if made.returncode is None:
            made.kill()
            await made.wait()


async def play(one: Input, target: Target, calls: int) -> dict[str, int]:
    """Put one bad input in flight so many times at once; count how the calls ended."""
    ended: dict[str, int] = {}
    async with asyncio.timeout(INPUT_S_MAX):
        for told in await asyncio.gather(*(one.call(target, number) for number in range(calls))):
            ended[told] = ended.get(told, 0) + 1
    return ended


async def attack(folder: Path, calls: int, names: list[str]) -> bool:
    """Play every input; say whether the server held."""
    probe, log = folder / "probe.jsonl", folder / "server.log"
    async with (
        process("tests.hostile.provider", log=folder / "provider.log") as (_, port),
        process("tests.hostile.provider", log=folder / "well.log") as (_, well_port),
    ):
        file = folder / "strategy.yaml"
        await asyncio.to_thread(file.write_text, strategy(int(port), int(well_port)))
        async with process(
            "tests.hostile.served", str(probe), "serve", "--strategy", str(file),
            "--listen", "127.0.0.1:0", "--state", str(folder / "state.sqlite3"), "--json",
            "--log-level", "warning", "--grace", "2s", log=log,
        ) as (pid, line):  # fmt: skip
            target = Target(json.loads(line)["target"])
            watch, well = Watch(pid), Well()
            tasks = [asyncio.create_task(well.run(target, watch))]
            await asyncio.sleep(1.0)
            await play(INPUTS[GOOD], target, calls)  # what is made once has been made
            watch.idle_kb, watch.now = watch.rss_kb(), GOOD
            tasks.append(asyncio.create_task(watch.run()))
            for name in names:
                watch.now, watch.begun[name] = name, time.time()
                began = time.monotonic()
                ended = await play(INPUTS[name], target, calls)
                grown = (watch.peaks.get(name, watch.idle_kb) - watch.idle_kb) / 1_024
                told = ", ".join(f"{count} {word}" for word, count in sorted(ended.items()))
                took = time.monotonic() - began
                print(f"{name:<24}{took:6.1f} s{grown:8.0f} MB  {told}", flush=True)
            watch.now = "after"
            await asyncio.sleep(1.0)
            rested_kb = watch.rss_kb()
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
    return judge(watch, well, rested_kb, probe, len(names) * calls)


def judge(watch: Watch, well: Well, rested_kb: int, probe: Path, calls: int) -> bool:
    """Print the figures; say whether they hold."""
    beats = [json.loads(line) for line in probe.read_text().splitlines()]
    for beat in beats:
        beat["own_ms"] = max(0, min(beat["late_ms"] - beat["waited_ms"], beat["process_ms"]))
    beats.sort(key=lambda beat: -int(beat["own_ms"]))
    own = [beat["own_ms"] for beat in beats]
    grown = (watch.peak_kb - watch.idle_kb) / 1_024
    took = sorted(well.took_ms)
    stall = own[0] if own else 0
    print(
        f"{calls} calls; memory {watch.idle_kb / 1_024:.0f} MB, at most {grown:+.0f} MB,"
        f" afterwards {(rested_kb - watch.idle_kb) / 1_024:+.0f} MB",
        f"event loop: longest stall {stall} ms of its own doing, {sum(s > 100 for s in own)} over"
        f" 100 ms (with the machine's delays: {max((b['late_ms'] for b in beats), default=0)} ms)",
        f"the other caller: {len(took)} calls, {len(well.errors)} errors {well.errors[:3]}, median"
        f" {took[len(took) // 2]:.0f} ms, p99 {took[len(took) * 99 // 100]:.0f} ms",
        sep="\n",
    )
    for beat in beats[:5]:
        print("  late:", beat, watch.at(beat["at"]))
    held = grown <= GROWTH_MB_MAX and stall <= STALL_MS_MAX and not well.errors and len(took) > 20
    print("hostile: held" if held else "hostile: NOT HELD")
    return held


def main() -> int:
    """Choose the inputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", nargs="*", metavar="INPUT")
    parser.add_argument("--calls", type=int, default=50, help="of each input, at once")
    given = parser.parse_args()
    names = given.inputs or [name for name in INPUTS if name != GOOD]
    with tempfile.TemporaryDirectory(prefix="escalade-hostile-") as folder:
        return 0 if asyncio.run(attack(Path(folder), given.calls, names)) else 1


if __name__ == "__main__":
    sys.exit(main())
