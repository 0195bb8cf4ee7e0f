"""Keys: where they are found, why one is missing, and a wrapper that never shows one (D6, G9)."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

KEY_BYTES_MAX = 16_384
OTHERS_MAY_READ = stat.S_IRGRP | stat.S_IROTH


class Secret:
    """A key. It shows as a constant everywhere; only ``reveal`` gives it away."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Answer the key itself, for a header and nothing else."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(not shown)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied into a dump."""
        raise TypeError("a secret is not serialised")


@dataclass(frozen=True, slots=True)
class Credential:
    """The key of one provider's account, or why there is none; at most one warning beside it.

    ``missing`` is empty when the key is there, or none is needed.
    """

    secret: Secret | None = None
    missing: str = ""
    warning: str = ""


NOT_NEEDED = Credential()


def from_environment(names: tuple[str, ...], environ: Mapping[str, str]) -> Credential:
    """Take the key from the first variable that is set and not empty."""
    for name in names:
        text = environ.get(name, "").strip().strip("\ufeff")
        if text:
            return _checked(text, f"the key in {name}")
    return Credential(missing=f"set {names[0]}")


def from_file(path: Path) -> Credential:
    """Take the key from a file: stripped, its characters checked, its mode looked at (G9)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(KEY_BYTES_MAX + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        return Credential(missing=f"the key file {path} cannot be read: {error.strerror}")
    if not stat.S_ISREG(mode):
        return Credential(missing=f"the key file {path} is not a file")
    if len(data) > KEY_BYTES_MAX:
        return Credential(missing=f"the key file {path} is too large for a key")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return Credential(missing=f"the key file {path} is not text")
    if not text:
        return Credential(missing=f"the key file {path} is empty")
    warning = ""
    if mode & OTHERS_MAY_READ:
        warning = f"the key file {path} can be read by other users of this machine"
    found = _checked(text, f"the key file {path}")
    return Credential(found.secret, found.missing, warning)


def _checked(text: str, what: str) -> Credential:
    """Take only what may stand in a header; the text itself is never part of a message."""
    if not (text.isascii() and text.isprintable()) or " " in text:
        return Credential(missing=f"{what} holds characters that no key has")
    return Credential(Secret(text))
