"""Create .venv, or bring it up to date, from hash-pinned requirements: `setup.py runtime|dev`.

Needs only the standard library: the Makefile runs it with whatever Python the machine has. An
environment that works is mended in place, so that a running server of yours keeps its files.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PIP = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
USABLE = "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))"
# The development set holds the runtime set at the same versions (tools/requirements.py).
COVERED = {"runtime": ["runtime"], "dev": ["dev", "runtime"]}


def run(*command: str) -> None:
    """Run a command; its own output explains a failure, so end with its code and no traceback."""
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


def works(*command: str) -> bool:
    """Whether a command can be started and ends well."""
    try:
        return not subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode
    except OSError:
        return False


def main(chosen: str) -> None:
    """Install the chosen set and the two packages of this repository, then leave the stamps."""
    started = time.monotonic()
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"setup: .venv with the {chosen} requirements (Python {version}) ...", flush=True)
    if not works(str(PYTHON), "-c", USABLE):
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
    if not works(str(PYTHON), "-m", "pip", "--version"):
        works(str(PYTHON), "-m", "ensurepip")  # if it does not, the next line says so
    pinned = [f"--requirement=requirements/{name}.txt" for name in ("build", chosen)]
    # Wheels only: a source distribution would run a build that no hash covers.
    run(*PIP, "--require-hashes", "--only-binary=:all:", *pinned)
    local = ["--editable=client_sdk", "--editable=server"]
    run(*PIP, "--no-deps", "--no-index", "--no-build-isolation", *local)
    run(str(PYTHON), "-m", "pip", "check")  # else a pyproject.toml asks for more than is pinned
    for name in COVERED[chosen]:
        (VENV / f".{name}").touch()
    print(f"setup: done in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
