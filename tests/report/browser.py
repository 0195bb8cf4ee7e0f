"""A headless browser, and what it draws of a page.

``python -m tests.report.browser FILE`` writes the picture of the sample report, for the README.
"""

import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
TIMEOUT_S = 60
Colour = tuple[int, ...]


def drawn(page: Path, *, dark: bool = False, width: int = 640, height: int = 900) -> bytes:
    """Draw a file as PNG."""
    assert BROWSER is not None, "no Chromium is here: `make e2e` installs one"
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += ["--no-first-run", f"--user-data-dir={folder}/profile"]
        flags += [f"--window-size={width},{height}", f"--screenshot={picture}"]
        flags += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
        subprocess.run(
            [BROWSER, *flags, page.as_uri()], check=True, capture_output=True, timeout=TIMEOUT_S
        )
        return picture.read_bytes()


def colours(png: bytes) -> Counter[Colour]:
    """Count the pixels of each colour (8 bits a channel, as browsers write them)."""
    width, _height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert depth == 8
    size = {2: 3, 6: 4}[kind]
    at, packed = 8, b""
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            packed += png[at + 8 : at + 8 + length]
        at += 12 + length
    data, stride = zlib.decompress(packed), width * size
    before = bytes(stride)
    found = Counter[Colour]()
    for start in range(0, len(data), stride + 1):
        before = _unfiltered(data[start], data[start + 1 : start + 1 + stride], before, size)
        found.update(zip(*(before[channel::size] for channel in range(3)), strict=True))
    return found


def _unfiltered(kind: int, line: bytes, above: bytes, size: int) -> bytes:
    """Undo the filter of one line (PNG, section 9)."""
    if kind == 0:
        return line
    out = bytearray(line)
    for place in range(len(line)):
        left = out[place - size] if place >= size else 0
        up, corner = above[place], above[place - size] if place >= size else 0
        if kind == 4:
            guess = left + up - corner
            near = [(abs(guess - value), order) for order, value in enumerate((left, up, corner))]
            added = (left, up, corner)[min(near)[1]]
        else:
            added = (left, up, (left + up) // 2)[kind - 1]
        out[place] = (out[place] + added) & 0xFF
    return bytes(out)


if __name__ == "__main__":
    sample = Path(__file__).with_name("golden") / "report.html"
    Path(sys.argv[1]).write_bytes(drawn(sample, width=1000, height=1130))
