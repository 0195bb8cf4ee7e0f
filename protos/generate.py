"""Write the stubs of ``protos/`` into ``client_sdk/src/escalade/v1``; ``--check`` only compares.

The only generator. It runs the versions pinned in ``codegen.txt`` in an environment of its own
under ``.cache``, made at the first run, so that the generator never meets what the project
installs. Fails with one sentence when the generator is missing; it never skips.
"""

import argparse
import difflib
import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PINS = PROTOS / "codegen.txt"
TARGET = ROOT / "client_sdk" / "src" / "escalade" / "v1"
PACKAGE = '"""Generated stubs of the package escalade.v1: `make gen` writes them."""\n'


def main() -> int:
    """Generate or compare; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write the stubs of the protos.")
    parser.add_argument("--check", action="store_true", help="only compare, 1 if not fresh")
    check: bool = parser.parse_args().check
    try:
        fresh = generated_files(generator())
    except subprocess.CalledProcessError as error:
        print(f"generate.py: {error.cmd[0]} failed:\n{error.stderr}", file=sys.stderr)
        return 2
    present = {path.name: path.read_text("utf-8") for path in stubs_in(TARGET)}
    stale = sorted(name for name in fresh | present if fresh.get(name) != present.get(name))
    if check:
        return report(stale, fresh, present)
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in fresh:
            (TARGET / name).write_text(fresh[name], "utf-8")
        else:
            (TARGET / name).unlink()
    print(f"{len(fresh)} files, {len(stale)} changed")
    return 0


def generator() -> Path:
    """Return the folder of the pinned generator's programs; made once per content of the pins."""
    digest = hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = ROOT / ".cache" / f"codegen-{digest}"
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    ready = home / ".ready"
    if not ready.exists():  # absent too when an earlier run was cut short: begin again
        venv.create(home, clear=True, with_pip=True)
        pip = [str(programs / "python"), "-m", "pip", "install", "-q", "-r", str(PINS)]
        subprocess.run(pip, check=True, capture_output=True, text=True)
        ready.touch()
    return programs


def generated_files(programs: Path) -> dict[str, str]:
    """Return what the generator makes of all protos, by file name."""
    sources = sorted((PROTOS / "escalade" / "v1").glob("*.proto"))
    services = [path for path in sources if "\nservice " in path.read_text("utf-8")]
    with tempfile.TemporaryDirectory() as folder:
        protoc = [
            *(str(programs / "python"), "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}"),
            f"--plugin=protoc-gen-mypy={programs / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={programs / 'protoc-gen-mypy_grpc'}",
        ]
        runs = (
            ([f"--python_out={folder}", f"--mypy_out={folder}"], sources),
            # Only files with a service: for the others grpc writes empty modules.
            ([f"--grpc_python_out={folder}", f"--mypy_grpc_out={folder}"], services),
        )
        for outputs, inputs in runs:
            command = [*protoc, *outputs, *map(str, inputs)]
            subprocess.run(command, check=True, capture_output=True, text=True)
        made = stubs_in(Path(folder) / "escalade" / "v1")
        return {"__init__.py": PACKAGE} | {path.name: path.read_text("utf-8") for path in made}


def stubs_in(folder: Path) -> list[Path]:
    """Return the Python files and stubs of a folder."""
    return sorted(path for path in folder.glob("*") if path.suffix in {".py", ".pyi"})


def report(stale: list[str], fresh: dict[str, str], present: dict[str, str]) -> int:
    """Print what differs and the mend; returns 1 if anything does."""
    for name in stale:
        before, after = present.get(name, ""), fresh.get(name, "")
        lines = difflib.unified_diff(
            before.splitlines(), after.splitlines(), f"{name} (committed)", name, lineterm=""
        )
        print("\n".join(list(lines)[:20]))
    print(f"not fresh: {', '.join(stale)}; run `make gen`" if stale else "the stubs are fresh")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
