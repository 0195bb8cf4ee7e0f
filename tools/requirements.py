"""Renew requirements/*.txt: exact versions with hashes, for every platform and Python >= 3.11.

Needs `uv` on the PATH. The pins name neither an index nor the two packages of this repository.
`--upgrade` takes the newest versions that the ranges allow; without it only what must change does.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILE = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11"]
COMPILE += ["--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"]
COMPILE += ["--custom-compile-command=make requirements"]
COMPILE += ["--no-emit-package=escalade", "--no-emit-package=escalade-server"]
MEMBERS = ["client_sdk/pyproject.toml", "server/pyproject.toml"]
RUNTIME = "requirements/runtime.txt"
# In this order: what is installed for development is what is installed to serve, and more.
SETS = {
    RUNTIME: MEMBERS,
    "requirements/build.txt": ["--group=build", f"--constraints={RUNTIME}"],
    "requirements/dev.txt": [*MEMBERS, "--group=dev", f"--constraints={RUNTIME}"],
}


def main(extra: list[str]) -> None:
    """Compile every set, in place."""
    # Wheels of this machine must not end up in pins for everybody.
    env = {name: value for name, value in os.environ.items() if "FIND_LINKS" not in name}
    for output, sources in SETS.items():
        command = [*COMPILE, *extra, *sources, f"--output-file={output}"]
        subprocess.run(command, cwd=ROOT, env=env, check=True)
        print(f"{output}: {(ROOT / output).read_text().count('==')} packages")


if __name__ == "__main__":
    main(sys.argv[1:])
