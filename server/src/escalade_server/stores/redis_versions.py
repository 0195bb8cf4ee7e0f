"""Which versions of Redis and Valkey have known holes: our scripts run in what they mend.

CVE-2025-49844 lets a script take over the server, CVE-2026-23631 too; CVE-2026-21863 and -27623
stop a Valkey from afar. A distribution may mend an old version without changing its number, so
that a low one is advice, and no refusal.
"""

from collections.abc import Mapping

Version = tuple[int, ...]
MENDED: Mapping[str, tuple[Version, ...]] = {
    "Redis": ((7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2), (8, 6, 3)),
    "Valkey": ((7, 2, 12), (8, 0, 7), (8, 1, 6), (9, 0, 3)),
}
"""The first mended release of each line; lines after the last one began without the holes."""


def version_of(text: str) -> Version:
    """Read a version; what is no number ends it."""
    parts = []
    for part in text.split("."):
        if not (part.isascii() and part.isdecimal()):
            break
        parts.append(int(part))
    return tuple(parts)


def advice(info: Mapping[str, str]) -> str:
    """Say what should be renewed, by what a server says of itself; nothing: it is well."""
    is_valkey = "valkey_version" in info
    name = "Valkey" if is_valkey else "Redis"
    told = info.get("valkey_version" if is_valkey else "redis_version", "0")
    version, lines = version_of(told), MENDED[name]
    if version[:2] > lines[-1][:2]:
        return ""
    mended = next((line for line in lines if line[:2] == version[:2]), None)
    if mended is not None and version >= mended:
        return ""
    since = ".".join(map(str, mended or lines[-1]))
    return (
        f"{name} {told} has known holes in its scripts, mended in {since}: renew it, unless its"
        " distribution has mended it under the old number"
    )
