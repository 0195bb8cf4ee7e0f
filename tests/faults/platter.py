"""A disk that forgets what was not synced when the power goes: an SQLite VFS over real files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw


class _File(apsw.VFSFile):
    """Reports each sync with what is in the file by then."""

    def __init__(
        self, name: apsw.URIFilename | str | None, flags: list[int], platter: "Platter"
    ) -> None:
        super().__init__("", name, flags)
        self._path = Path(name.filename() if isinstance(name, apsw.URIFilename) else str(name))
        self._platter = platter

    def xSync(self, flags: int) -> None:  # noqa: N802  # SQLite's name
        super().xSync(flags)
        self._platter.synced[self._path.name] = self._path.read_bytes()


class Platter(apsw.VFS):
    """Keeps the synced content of every file."""

    def __init__(self) -> None:
        self.synced: dict[str, bytes] = {}
        super().__init__("platter", "")

    def xOpen(  # noqa: N802  # SQLite's name
        self, name: apsw.URIFilename | str | None, flags: list[int]
    ) -> apsw.VFSFile:
        return _File(name, flags, self)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: FBT001, N802  # SQLite's name
        super().xDelete(name, sync)
        self.synced.pop(Path(name).name, None)

    def lose_power(self, folder: Path) -> None:
        """Write what is left into a folder."""
        folder.mkdir()
        for name, data in self.synced.items():
            (folder / name).write_bytes(data)


@contextmanager
def platter() -> Iterator[Platter]:
    """Use such a disk for a while."""
    made = Platter()
    try:
        yield made
    finally:
        made.unregister()
