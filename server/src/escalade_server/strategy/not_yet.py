"""Keys that are accepted and checked, but whose behaviour is not built in this version: none.

One row per key: ``*`` stands for any name or index. When its behaviour is built, its row goes. The
table stays, because ``CheckStrategy`` answers it: a key may be taken one version before its
behaviour, so that a file is never refused by a server that is rolled back.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from escalade_server.strategy.errors import NotYetInEffect, Path, dotted
from escalade_server.strategy.model import SECTION_NAMES
from escalade_server.strategy.validate import TOP
from escalade_server.strategy.yaml_nodes import Document


@dataclass(frozen=True, slots=True)
class Row:
    """A key, what happens instead, and the values that this is true of (none: all)."""

    path: str
    sentence: str
    values: tuple[str, ...] = ()


ROWS: tuple[Row, ...] = ()


def not_yet_in_effect(document: Document) -> Iterator[NotYetInEffect]:
    """List the keys of a file that have no effect yet, in the order of the file."""
    found = [
        (spot.line, path, row)
        for path, spot in document.keys.items()
        for row in ROWS
        if _matches(row, path) and (not row.values or document.spot(path).text in row.values)
    ]
    for line, path, row in sorted(found, key=lambda entry: entry[0]):
        yield NotYetInEffect(dotted(path), line, row.sentence)


def _matches(row: Row, path: Path) -> bool:
    inside = path[1:] if path[:1] == (TOP,) else path
    if path[:1] != (TOP,) and path[:1] and path[0] not in SECTION_NAMES:
        return False
    wanted = row.path.split(".")
    return len(wanted) == len(inside) and all(
        want in {"*", step} for want, step in zip(wanted, inside, strict=True)
    )
