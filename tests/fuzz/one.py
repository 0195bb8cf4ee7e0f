"""One target: fuzzed (`TARGET --work FOLDER`), or run on given inputs (`TARGET FILE...`).

Fuzzed with a seed it does a fixed number of runs, nearly alike everywhere; without one it draws
anew until its seconds are over. Running it on inputs needs no fuzzer, so that a finding can be
looked at with a debugger.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

LENGTH_MAX = {"strategy": 16_384}
LENGTH_MAX_ELSE = 4_096
RUNS = {
    "sse": 8_000,
    "openai": 8_000,
    "anthropic": 8_000,
    "gemini": 8_000,
    "errors": 8_000,
    "strategy": 1_000,
    "parse": 12_000,
    "resets": 12_000,
    "requests": 4_000,
}
"""Of a run with a seed, and with the effort of one."""
ONE_INPUT_S_MAX = 20
MEMORY_MB_MAX = 2_048
AGAIN = "--again"


def replay(name: str, files: list[Path]) -> None:
    """Run a target on inputs; an exception is the finding."""
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - after the fuzzer had its chance

    for file in files:
        print(f"{name}: {file} ({file.stat().st_size} bytes)", flush=True)
        TARGETS[name](file.read_bytes())
    print(f"{name}: {len(files)} inputs, no finding")


def fuzz(name: str, tell: Callable[[], list[str]]) -> None:
    """Fuzz a target; what ``tell`` answers goes to the fuzzer. Never returns."""
    import atheris  # noqa: PLC0415 - not needed to run a target on an input

    with atheris.instrument_imports(include=["escalade_server"]):
        from tests.fuzz import targets  # noqa: PLC0415 - what is imported here first is watched

    atheris.Setup(tell(), targets.TARGETS[name])
    atheris.Fuzz()


def prepare(given: argparse.Namespace) -> list[str]:
    """Lay out seeds and corpus, and say what the fuzzer is to be told.

    New inputs stand in ``work/new``, seeds in ``work/seeds``; to merge is to add to the seeds what
    of the corpus and the new inputs reaches code that they do not.
    """
    name, work = given.target, given.work
    from tests.fuzz import seeds, targets  # noqa: PLC0415 - see `fuzz`

    new, seeded, corpus = work / "new", work / "seeds", targets.CORPUS / name
    for folder in (new, seeded, corpus, targets.CRASHES):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds.SEEDS[name]()):
        (seeded / f"{number:04}").write_bytes(seed)
    told = [
        sys.argv[0],
        f"-max_len={LENGTH_MAX.get(name, LENGTH_MAX_ELSE)}",
        f"-timeout={ONE_INPUT_S_MAX}",
        f"-rss_limit_mb={MEMORY_MB_MAX}",
        f"-artifact_prefix={targets.CRASHES}/{name}-",
        "-print_final_stats=1",
    ]
    if given.merge:
        # The fuzzer starts itself again to merge, by its own name.
        again = work / "again"
        command = f'{sys.executable} -m tests.fuzz.one {AGAIN} {name} "$@"'
        again.write_text(f"#!/bin/sh\nexec {command}\n")
        again.chmod(0o700)
        told[0] = str(again)
        told += ["-merge=1", str(seeded), str(corpus), str(new)]
    elif given.seed:
        # Drawn alike each time, it judges a change and not luck. Folders are listed in any order,
        # and what is found in the new one is read again by the clock.
        inputs = work / "inputs"
        files = [*sorted(corpus.iterdir()), *sorted(seeded.iterdir())]
        inputs.write_text(",".join(map(str, files)))
        runs = RUNS[name] * given.times
        told += [f"-seed={given.seed}", f"-runs={runs}", "-reload=0", f"-seed_inputs=@{inputs}"]
        told += [f"-max_total_time={given.seconds}", str(new)]
    else:
        told += [f"-max_total_time={given.seconds}", str(new), str(corpus), str(seeded)]
    return told


def main() -> None:
    """Choose."""
    if sys.argv[1:2] == [AGAIN]:
        fuzz(sys.argv[2], lambda: [sys.argv[0], *sys.argv[3:]])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--merge", action="store_true")
    given = parser.parse_args()
    if given.files:
        replay(given.target, given.files)
    else:
        assert given.work is not None
        fuzz(given.target, lambda: prepare(given))


if __name__ == "__main__":
    main()
