"""The secret that signs resume tokens, in a small file of its own beside the ledger (R22).

It opens nothing: who has it can jump the queue, and try out guesses on the hashes that are kept of
sessions, which are salted with it (R29). It is made once, so that both outlive a restart.
"""

import os
from contextlib import suppress
from pathlib import Path

from escalade_server.engine.ports import StoreError

CHARS_MIN = 32


def load_secret(path: str | os.PathLike[str], fresh: str) -> str:
    """Read the secret; the first time, ``fresh`` becomes it. Readable for its owner only.

    Raises:
        StoreError: it cannot be read or made; the message says why.
    """
    place = Path(path)
    made = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        if not place.exists():
            with suppress(FileNotFoundError):
                made.unlink()
            descriptor = os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(fresh)
                file.flush()
                os.fsync(file.fileno())
            try:
                with suppress(FileExistsError):  # another process was first: its secret counts
                    os.link(made, place)
            finally:
                made.unlink()
        secret = place.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        raise StoreError(f"the secret in {place} cannot be read or made: {error}") from error
    if len(secret) < CHARS_MIN:
        raise StoreError(f"{place} holds no secret; remove it, and a new one is made")
    return secret
