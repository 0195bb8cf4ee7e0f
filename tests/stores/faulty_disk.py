"""A disk, below SQLite, that fails when a test says so."""

from collections.abc import Callable

import apsw

BELOW = apsw.vfs_names()[0]
FULL = apsw.FullError("disk is full")


def failed(what: int) -> apsw.IOError:
    """An input or output error, by SQLite's extended code."""
    error = apsw.IOError("the drive is gone")
    error.extendedresult = what  # type: ignore[attr-defined]  # missing in apsw's type stubs
    return error


class FaultyFile(apsw.VFSFile):
    """A file whose syncs and writes are counted, and fail when it is time."""

    def __init__(
        self, name: apsw.URIFilename | str | None, flags: list[int], fault: Callable[[str], None]
    ) -> None:
        super().__init__(BELOW, name, flags)
        self.fault = fault

    def xSync(self, flags: int) -> None:  # noqa: N802  # SQLite's name
        self.fault("sync")
        super().xSync(flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  # SQLite's name
        self.fault("write")
        super().xWrite(data, offset)


class FaultyDisk(apsw.VFS):
    """Fails the n-th write or sync from now, and all after it until it is mended."""

    def __init__(self, *, everywhere: bool = False) -> None:
        self.fails_in: int | None = None
        self.calls = 0
        self.fails_only = ""
        self.error: Exception = FULL
        super().__init__("faulty", BELOW, everywhere)

    def fail(self, error: Exception = FULL, only: str = "") -> None:
        """Fail from now on."""
        self.error, self.fails_only, self.fails_in = error, only, 0

    def mend(self) -> None:
        """Fail no more."""
        self.fails_in = None

    def strike(self, what: str) -> None:
        self.calls += 1
        if self.fails_in is None or self.fails_only not in {"", what}:
            return
        self.fails_in -= 1
        if self.fails_in < 0:
            raise self.error

    def xOpen(  # noqa: N802  # SQLite's name
        self, name: apsw.URIFilename | str | None, flags: list[int]
    ) -> apsw.VFSFile:
        return FaultyFile(name, flags, self.strike)
