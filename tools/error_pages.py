"""Write docs/errors: a page for each error, made of its enum, its comments and its mend.

python tools/error_pages.py            write
python tools/error_pages.py --check    fail if what is there is not what would be written
"""

import re
import sys
from pathlib import Path

from escalade.v1 import error_pb2
from escalade_server.api.mends import MENDS
from escalade_server.api.status import STATUS

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "errors"
PROTO = ROOT / "protos" / "escalade" / "v1" / "error.proto"
PREFIX = "ERROR_REASON_"
MADE = "<!-- Made by tools/error_pages.py from error.proto and api/mends.py: `make gen`. -->\n"
_VALUE = re.compile(r"// ([A-Z_]+): ((?:.*\n)+?) +ERROR_REASON_([A-Z_]+) = ")


def meanings() -> dict[str, str]:
    """Read what the proto says of each reason, by its name without the prefix."""
    found = {}
    for match in _VALUE.finditer(PROTO.read_text(encoding="utf-8")):
        words = re.sub(r"\n\s*// ", " ", match[2]).strip()
        found[match[3]] = words.removeprefix("Marks ")
    return found


def pages() -> dict[str, str]:
    """Make every page, by its file name."""
    said, made = meanings(), {}
    rows = []
    for name, number in error_pb2.ErrorReason.items():
        if number == error_pb2.ERROR_REASON_UNSPECIFIED:
            continue
        short = name.removeprefix(PREFIX)
        mend, status = MENDS[number], STATUS[number].name
        made[f"{short}.md"] = (
            f"{MADE}# {short}\n\n"
            f"| | |\n|---|---|\n"
            f"| gRPC status | `{status}` |\n"
            f"| meaning | {said[short]} |\n"
            f"| who can mend it | {mend.who.value} |\n"
            f"| what to do | {mend.words} |\n"
            f"| again? | {mend.again.value} |\n\n"
            f"{mend.more}\n\n[All errors](README.md)\n"
        )
        rows.append(f"| [{short}]({short}.md) | `{status}` | {mend.who.value} | {mend.words} |\n")
    made["README.md"] = (
        f"{MADE}# Errors\n\n"
        "Every call that fails carries `google.rpc.ErrorInfo` with the domain `escalade.v1` and one"
        " of these reasons; its message ends with what to do. The SDK has a class for each.\n\n"
        "| reason | gRPC status | who can mend it | what to do |\n|---|---|---|---|\n"
        + "".join(rows)
    )
    return made


def main() -> int:
    """Write or compare; the exit status."""
    fresh = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")}
    stale = sorted(name for name in fresh | there if fresh.get(name) != there.get(name))
    if sys.argv[1:] == ["--check"]:
        for name in stale:
            print(f"docs/errors/{name} is not fresh: run `make gen`", file=sys.stderr)
        return bool(stale)
    PAGES.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in fresh:
            (PAGES / name).write_text(fresh[name], encoding="utf-8")
        else:
            (PAGES / name).unlink()
    print(f"{len(fresh)} pages, {len(stale)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
