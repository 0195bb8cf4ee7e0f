"""How many calls are in flight by provider and account, where a strategy limits it.

Of this process alone: several workers have a limit each.
"""

from collections.abc import Mapping

from escalade_server.core.catalog import Model


class Occupancy:
    """Counts calls from their reservation to their settlement."""

    def __init__(self) -> None:
        """Begin with none."""
        self._calls: dict[str, int] = {}

    @property
    def calls(self) -> Mapping[str, int]:
        """Calls in flight by provider or account; those without a limit are not counted."""
        return self._calls

    def is_full(self, model: Model) -> bool:
        """Tell whether one more call of a model would be one too many."""
        return any(self._calls.get(key, 0) >= most for key, most in model.pace.concurrency)

    def take(self, model: Model) -> None:
        """A call begins."""
        for key, _ in model.pace.concurrency:
            self._calls[key] = self._calls.get(key, 0) + 1

    def give(self, model: Model) -> None:
        """A call has ended."""
        for key, _ in model.pace.concurrency:
            left = self._calls[key] - 1
            if left:
                self._calls[key] = left
            else:
                del self._calls[key]
