"""Whether this process should be sent calls: while nothing stands in the way (faults K5).

What stands in the way is this process's own: its ledger cannot be written, its background work
keeps dying, it shuts down. Never that a provider is out, which is what layers are for.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

LEDGER = "ledger"
BACKGROUND = "background"
DRAINING = "draining"


class Serve(Protocol):
    """Tells health checks whether calls are welcome."""

    def __call__(self, *, serving: bool) -> Awaitable[None]:
        """Take it."""
        ...


class Readiness:
    """Owned by one event loop; ``wrong`` may be asked from any thread."""

    def __init__(self, serve: Serve) -> None:
        """Begin with nothing in the way."""
        self._serve = serve
        self._reasons: frozenset[str] = frozenset()
        self.told: Callable[[str, bool], None] = lambda _reason, _well: None
        """Hears each reason that comes or goes."""

    @property
    def wrong(self) -> str:
        """What stands in the way; nothing when all is well."""
        return ", ".join(sorted(self._reasons))

    async def set(self, reason: str, *, well: bool) -> None:
        """Take a reason up, or away."""
        if well is (reason not in self._reasons):
            return
        self._reasons = self._reasons - {reason} if well else self._reasons | {reason}
        self.told(reason, well)
        await self._serve(serving=not self._reasons)
