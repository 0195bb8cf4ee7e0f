"""See that there is a Redis 7 server for the tests of the store; install Debian's if there is none.

What was installed once is found at the next run. The tests start it themselves, each on a port of
its own.
"""

import os
import shutil
import subprocess
import sys

INSTALL = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends"]
# The package would start a server of its own, which nobody here needs.
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
MEND = "install redis-server 7 or later (Debian, Ubuntu: apt-get install redis-server)"


def main() -> None:
    """Find it, or install it; without either, end with the mend."""
    if shutil.which("redis-server"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"the tests of the store need a Redis: {MEND}")
    print("redis-server is missing: installing it ...", flush=True)
    env = os.environ | QUIET
    for command in (["apt-get", "update", "-q"], [*INSTALL, "redis-server"]):
        done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()[-400:]}\n{MEND}")


if __name__ == "__main__":
    main()
