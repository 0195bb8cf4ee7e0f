"""The request ids that this process runs, as Redis refuses them to other servers (R27).

An id is claimed by the first reservation of its task, and freed when the task has ended without
an answer. Freeing it is tried until it is done; the death of the process frees it, too.
"""

from escalade_server.core.commands import Reserve, Settle
from escalade_server.stores.redis_orders import Free
from escalade_server.stores.redis_wire import claim_of

FREE_MAX = 500


class Running:
    """What is claimed, and what is to be freed."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._claims: set[str] = set()
        self._of: dict[str, str] = {}
        """Claims of reservations that are not settled yet."""
        self._ended: dict[str, None] = {}

    def __bool__(self) -> bool:
        """Tell whether any is to be freed."""
        return bool(self._ended)

    def asked(self, order: Reserve) -> None:
        """Note a reservation that is on its way: it may claim its id whatever is answered."""
        if order.request_id and order.candidates:
            claim = self._of[order.reservation_id] = claim_of(order.agent, order.request_id)
            self._claims.add(claim)
            self._ended.pop(claim, None)

    def runs(self, order: Reserve) -> bool:
        """Tell whether the task of a reservation still runs."""
        return claim_of(order.agent, order.request_id) in self._claims

    def refused(self, reservation_id: str) -> None:
        """Hear that nothing is held under a reservation; its task may have others."""
        self._of.pop(reservation_id, None)

    def settled(self, order: Settle) -> None:
        """Hear of a settlement; with figures its id is answered, which says more."""
        claim = self._of.pop(order.reservation_id, None)
        if claim is not None and order.figures is not None:
            self._claims.discard(claim)

    def end(self, agent: str, request_id: str) -> bool:
        """Take it that an id runs no more; say whether it is to be freed."""
        claim = claim_of(agent, request_id)
        if claim not in self._claims:
            return False
        self._claims.discard(claim)
        self._ended[claim] = None
        return True

    def take(self) -> Free:
        """Take what is to be freed next; ``freed`` confirms it."""
        return Free(tuple(self._ended)[:FREE_MAX])

    def freed(self, order: Free) -> None:
        """Forget what has been freed."""
        for claim in order.claims:
            self._ended.pop(claim, None)
