"""Run stages one after another, each `make STAGE`; time them; stop at the first that fails."""

import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cpu_s() -> float:
    """CPU seconds, user and system, of every child waited for so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(stages: list[str]) -> int:
    """Run the stages in order; the exit code is that of the first failure, else 0."""
    rows: list[str] = []
    code = 0
    for stage in stages:
        print(f"--- ci: {stage}", flush=True)
        wall, cpu = time.monotonic(), cpu_s()
        make = ["make", "--no-print-directory", stage]
        code = subprocess.run(make, cwd=ROOT, check=False, stdin=subprocess.DEVNULL).returncode
        word = "FAILED" if code else "ok"
        rows.append(
            f"{stage:<16}{word:<8}{time.monotonic() - wall:7.1f} s{cpu_s() - cpu:8.1f} CPU-s"
        )
        if code:
            break
    skipped = stages[len(rows) :]
    print("--- ci: summary", *rows, *(f"{stage:<16}not run" for stage in skipped), sep="\n")
    if code:
        print(f"ci: FAILED in stage {stage}; alone: make {stage}")
    else:
        print(f"ci: all {len(stages)} stages passed, {cpu_s():.1f} CPU-s")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
