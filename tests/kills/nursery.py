"""Starts servers without waiting for their imports: ``python -m tests.kills.nursery``.

It has imported the command `escalade` and nothing of it has run. Each line it reads, a JSON list of
output, error output and arguments, becomes a process of its own that runs that command; the answer
is its process id. An empty line waits for its end; the answer is its exit code.
"""

import gc
import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path

import escalade_server
from escalade_server.cli.main import main


def warm() -> None:
    """Import all that the command may import later, once for all its processes."""
    for found in pkgutil.walk_packages(escalade_server.__path__, "escalade_server."):
        importlib.import_module(found.name)
    gc.collect()
    gc.freeze()


def born(out: str, log: str, arguments: list[str]) -> int:
    """Fork a process that runs the command; answer its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for number, path in ((1, out), (2, log)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
        main(arguments, standalone_mode=False)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run() -> None:
    warm()
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, "a process with threads cannot be forked"
    child = 0
    for line in sys.stdin:
        if line.strip():
            out, log, arguments = json.loads(line)
            answer = child = born(out, log, arguments)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    run()
