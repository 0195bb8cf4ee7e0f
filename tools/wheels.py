"""Build both wheels into dist/, install them into a clean environment, import every module."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMPORT_ALL = """
import importlib, pkgutil, sys
count = 0
for name in ("escalade", "escalade_server"):
    package = importlib.import_module(name)
    assert "site-packages" in package.__file__, package.__file__
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
print(f"wheels: {count} modules imported from a clean environment")
"""


def run(*command: str, cwd: Path = ROOT) -> None:
    """Run a command and end with its code if it fails."""
    code = subprocess.run(command, cwd=cwd, check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Build, install as a user would (pinned dependencies, then the wheels), import."""
    dist = ROOT / "dist"
    for old in dist.glob("*.whl"):
        old.unlink()
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*build, f"--wheel-dir={dist}", "./client_sdk", "./server")
    with tempfile.TemporaryDirectory() as scratch:
        python = f"{scratch}/venv/bin/python"
        run(sys.executable, "-m", "venv", f"{scratch}/venv")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pins = ROOT / "requirements" / "runtime.txt"
        run(*install, "--require-hashes", "--only-binary=:all:", f"--requirement={pins}")
        wheels = sorted(str(wheel) for wheel in dist.glob("*.whl"))
        run(*install, "--no-deps", "--no-index", *wheels)
        run(python, "-m", "pip", "check")
        run(python, "-W", "error", "-c", IMPORT_ALL, cwd=Path(scratch))
        run(f"{scratch}/venv/bin/escalade", "--help", cwd=Path(scratch))


if __name__ == "__main__":
    main()
