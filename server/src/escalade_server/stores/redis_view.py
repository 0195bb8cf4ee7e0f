"""What one process knows of the ledger in Redis, for ``standing``: never asked for, only told.

The answers of its own scripts are taken at once; what others did comes with the next look. The
version of the ledger says whether there was anything between.
"""

from collections.abc import Iterable

from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Balance, Bench
from escalade_server.stores.board import Board
from escalade_server.stores.redis_wire import Aside, Changed, Reply


class View:
    """The parts of all counters, and the board that is made of them."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.board = Board()
        self.version = 0
        """Up to here nothing was missed."""
        self._parts: dict[str, dict[int, Balance]] = {}
        self._benches: dict[str, Bench] = {}

    def names(self) -> Iterable[str]:
        """Answer every counter that was ever told of."""
        return self._parts

    def take(self, reply: Reply) -> set[str]:
        """Take an answer; say of which counters it tells."""
        is_all = reply.notes == ["all"]
        if is_all or reply.version == self.version + 1:
            self.version = reply.version
        if reply.kind == "same":  # it tells what was, when it was held
            return set()
        touched = set()
        for name, parts in reply.seen:
            self._parts[name] = {part.starts_ms: part.balance for part in parts}
            touched.add(name)
        for change in reply.changed:
            if self._change(change):
                touched.add(change.name)
        changes = [(name, tuple(self._parts[name].values())) for name in touched]
        self.board.publish(changes, self._aside(reply.benches, is_all=is_all), reply.now_ms)
        return touched

    def _change(self, change: Changed) -> bool:
        parts = self._parts.get(change.name)
        old = parts.get(change.starts_ms) if parts else None
        if parts is None or old is None:
            return False  # of a window that has ended
        parts[change.starts_ms] = Balance(old.window, change.spent, change.held, old.ends_ms)
        return True

    def _aside(self, found: list[Aside], *, is_all: bool) -> dict[str, Bench] | None:
        if not found and not is_all:
            return None
        told = {
            key: Bench(until_ms, FailureClass(cls), detail)
            for key, until_ms, cls, detail in found
        }  # fmt: skip
        known = told if is_all else self._benches | told
        self._benches = {key: bench for key, bench in known.items() if bench.until_ms}
        return self._benches
