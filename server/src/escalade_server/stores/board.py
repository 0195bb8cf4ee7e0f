"""What the event loop knows of a store: the last published balances and benches.

Reading is synchronous and cheap; the authoritative rows are elsewhere.
"""

from collections.abc import Callable, Iterable, Mapping

from escalade_server.core.catalog import Counter
from escalade_server.core.standing import Balance, Bench, Standing, disabled
from escalade_server.core.window import Window, slice_at, slides, total
from escalade_server.engine.ports import Spend

Change = tuple[str, tuple[Balance, ...]]
"""A counter's key with all its parts that still count: one for a calendar window."""
_FAR_MS = 1 << 62


class Board:
    """Makes a ``Standing`` of what was published; used on one thread only."""

    def __init__(self) -> None:
        """Begin with nothing: everything is in good order."""
        self._parts: dict[str, tuple[Balance, ...]] = {}
        self._balances: dict[str, Balance] = {}
        self._benches: Mapping[str, Bench] = {}
        self._disabled: Mapping[str, Bench] = {}
        self._standing: Standing | None = None
        self._until_ms = _FAR_MS

    def publish(
        self, changes: Iterable[Change], benches: Mapping[str, Bench] | None, now_ms: int
    ) -> None:
        """Take what changed; ``benches`` replaces all of them and is not touched again."""
        for key, parts in changes:
            balance = parts[0] if len(parts) == 1 else total(parts, now_ms)
            if balance is None:
                self._parts.pop(key, None)
                self._balances.pop(key, None)
                continue
            self._parts[key] = parts
            self._balances[key] = balance
            self._until_ms = min(self._until_ms, balance.ends_ms)
        if benches is not None:
            self._benches, self._disabled = benches, disabled(benches)
        self._standing = None

    def standing(self, now_ms: int) -> Standing:
        """Answer shared state at this instant; the same object until something changes."""
        if now_ms >= self._until_ms:
            self._let_go(now_ms)
        if self._standing is None:
            self._standing = Standing(self._balances.copy(), self._benches, disabled=self._disabled)
        return self._standing

    def balance(self, key: str, now_ms: int) -> Balance | None:
        """Answer one counter; None when nothing is spent or held."""
        return self.standing(now_ms).balances.get(key)

    def spends(
        self,
        counters: Iterable[Counter],
        calendar: Callable[[Counter, int], Window],
        now_ms: int,
    ) -> tuple[Spend, ...]:
        """Answer every one of these counters with what it holds now, used or not."""
        found = []
        for counter in counters:
            balance = self.balance(counter.key, now_ms)
            if balance is None:
                window = (
                    slice_at(counter.period, now_ms)
                    if slides(counter.period)
                    else calendar(counter, now_ms)
                )
                found.append(Spend(counter, 0, 0, window.ends_ms))
            else:
                found.append(Spend(counter, balance.spent, balance.held, balance.ends_ms))
        return tuple(found)

    def _let_go(self, now_ms: int) -> None:
        """Forget windows that have ended, and slices that have left theirs."""
        ended = [key for key, balance in self._balances.items() if balance.ends_ms <= now_ms]
        for key in ended:
            balance = total(self._parts[key], now_ms)
            if balance is None:
                del self._parts[key], self._balances[key]
            else:
                self._balances[key] = balance
        self._until_ms = min(
            (balance.ends_ms for balance in self._balances.values()), default=_FAR_MS
        )
        self._standing = None
