"""What is read of the machine: CPU time and memory of processes, and a unit of cost (Linux)."""

import sysconfig
import timeit
from collections.abc import Callable
from pathlib import Path
from time import clock_gettime, thread_time
from typing import NamedTuple


def cpu_us(pid: int) -> float:
    """CPU time of a process with all its threads, user and system, in µs.

    Linux hands out every process's CPU clock under this number (``man clock_getcpuclockid``); it
    counts nanoseconds, where ``/proc/PID/stat`` counts hundredths of a second.
    """
    return clock_gettime((~pid << 3) | 2) * 1e6


def optimised() -> bool:
    """Whether this Python was built as releases are: with profile-guided optimisation."""
    return "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmRSS"))
    return int(kilobytes) / 1_000


def cost_us(call: Callable[[], object], number: int, repeat: int = 5) -> float:
    """CPU time of one call in µs: the best of several goes, as the others were disturbed."""
    timer = timeit.Timer(call, timer=thread_time)
    return min(timer.repeat(repeat, number)) / number * 1e6


class _Four(NamedTuple):
    a: int
    b: int
    c: int
    d: int


def unit_us() -> float:
    """Cost of the unit that figures can be compared in over machines, in µs.

    One unit makes ten tuples of four fields and looks four of a dictionary's keys up for each.
    """
    table = {f"{number}": number for number in range(100)}

    def unit() -> None:
        for _ in range(10):
            _Four(table["3"], table["33"], table["63"], table["93"])

    return cost_us(unit, 20_000)
