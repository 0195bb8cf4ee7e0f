"""What a process keeps of its own orders, because Redis may not have them.

Settlements that it has not confirmed are owed: kept, tried again, and in a journal if there is one.
Those that it has confirmed may be lost all the same, when another server takes over that had not
heard of them yet: so the last ten minutes are remembered, and said again (S10). Both are safe to
say twice, because a reservation is held once and booked once (S13).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from escalade_server.core.commands import Reserve, Settle
from escalade_server.core.ledger import NOTHING, Amounts
from escalade_server.stores.leasing import Fold
from escalade_server.stores.redis_orders import Again
from escalade_server.stores.spill import Spill

OWED_MAX = 100_000
REMEMBERED_S = 600.0
REMEMBERED_MAX = 100_000


class Owed:
    """What is owed to the ledger by one process, oldest first."""

    def __init__(self, journal: str | None) -> None:
        """Say where the journal is; ``open`` makes it."""
        self._orders: dict[int, Settle] = {}
        """By identity: one reservation may have several."""
        self.mine: set[str] = set()
        """Reservations that this process holds, or may hold."""
        self._spill = Spill(journal) if journal else None

    def open(self) -> None:
        """Read what an earlier process left.

        Raises:
            StoreError: another version wrote it.
            OSError: it cannot be opened.
        """
        if self._spill is not None:
            self._orders = {id(order): order for order in self._spill.open()}

    def __len__(self) -> int:
        """Say how many there are."""
        return len(self._orders)

    def first(self, most: int) -> list[Settle]:
        """Answer the oldest."""
        return list(islice(self._orders.values(), most))

    async def keep(self, settles: Sequence[Settle]) -> str:
        """Keep those that matter; answer why they are not safe from a crash of this process."""
        kept = [each for each in settles if id(each) not in self._orders and self._matters(each)]
        room = OWED_MAX - len(self._orders)
        self._orders |= {id(order): order for order in kept[:room]}
        if len(kept) > room:
            return f"{OWED_MAX} settlements wait already: the rest is booked in full"
        if self._spill is None:
            return "there is no journal: settlements are kept in memory only"
        if kept:
            try:
                await asyncio.to_thread(self._spill.append, kept)
            except OSError as error:
                return f"the journal cannot be written ({error}): they are kept in memory only"
        return ""

    def _matters(self, order: Settle) -> bool:
        """Tell a settlement from the release of a reservation that never came to be."""
        used = order.requests or order.tokens or order.nanos or order.digest
        return bool(used) or order.reservation_id in self.mine

    def paid(self, order: Settle) -> None:
        """Forget one that is in the ledger, if it was owed."""
        if self._orders.pop(id(order), None) and not self._orders and self._spill is not None:
            self._spill.clear()

    def close(self) -> None:
        """Let the journal go; safe twice."""
        if self._spill is not None:
            self._spill.close()


class Memory:
    """The confirmed orders of one process, as far back as a takeover may have lost them."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._orders: deque[tuple[float, Again | Settle | Fold]] = deque(maxlen=REMEMBERED_MAX)

    def held(self, order: Reserve, position: int, at_s: float) -> None:
        """Remember a reservation, of its candidates only the one that it holds."""
        taken = tuple([each for each in order.candidates if each.model.position == position])
        self._add(Again(replace(order, candidates=taken)), at_s)

    def again(self, order: Again, at_s: float) -> None:
        """Remember what was held without Redis, and said to it since."""
        self._add(order, at_s)

    def settled(self, order: Settle, at_s: float) -> None:
        """Remember a settlement."""
        self._add(order, at_s)

    def folded(self, order: Fold, granted: Amounts | None, at_s: float) -> None:
        """Remember a fold, with what was granted for it."""
        self._add(order._replace(granted=granted or NOTHING), at_s)

    def _add(self, order: Again | Settle | Fold, at_s: float) -> None:
        self._orders.append((at_s, order))
        while self._orders[0][0] < at_s - REMEMBERED_S:
            self._orders.popleft()

    def all(self) -> list[Again | Settle | Fold]:
        """Answer them in order, as they are said again."""
        return [order for _, order in self._orders]
