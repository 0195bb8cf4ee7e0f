"""Where mistakes of ours go when nobody else takes them."""

import asyncio

from escalade_server.engine.ports import Entropy


class LoopMistakes:
    """Hands mistakes to the event loop's exception handler, which ``bootstrap`` may set."""

    def __init__(self, entropy: Entropy) -> None:
        """Draw ids from the engine's chance."""
        self._entropy = entropy

    def __call__(self, error: Exception) -> str:
        """Record a mistake; answer its id."""
        mistake_id = self._entropy.task_id()
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"mistake {mistake_id}", "exception": error}
        )
        return mistake_id
