"""See that the programs that tests start are here; install Debian's where one is missing.

``python tools/programs.py redis-server chromium``. What is installed is found again.
"""

import os
import shutil
import subprocess
import sys

NAMES = {
    "redis-server": ("redis-server",),
    "prometheus": ("prometheus",),
    "chromium": ("chromium", "chromium-browser", "google-chrome", "chrome"),
}
"""By Debian package: the names under which a program may be on the PATH."""
INSTALL = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends"]
# A package may want to start a server of its own, which nobody here needs.
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}


def main(packages: list[str]) -> None:
    """Find each, or install it; without either, end with the mend."""
    missing = [each for each in packages if not any(map(shutil.which, NAMES[each]))]
    if not missing:
        return
    mend = f"install {' and '.join(missing)} (Debian, Ubuntu: apt-get install {' '.join(missing)})"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"the tests need {' and '.join(missing)}: {mend}")
    print(f"installing {' and '.join(missing)} ...", flush=True)
    for command in (["apt-get", "update", "-q"], [*INSTALL, *missing]):
        env = os.environ | QUIET
        done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()[-400:]}\n{mend}")


if __name__ == "__main__":
    main(sys.argv[1:])
