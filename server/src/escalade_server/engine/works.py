"""How work in the background ended."""

import asyncio
from typing import TypeVar

from escalade_server.engine.ports import StoreError

T = TypeVar("T")


def error_of(future: "asyncio.Future[T]") -> BaseException | None:
    """Say what a future failed with; a cancelled one has failed, too."""
    return asyncio.CancelledError() if future.cancelled() else future.exception()


def in_words(error: BaseException) -> str:
    """Say why the store did not do it."""
    return str(error) if isinstance(error, StoreError) else type(error).__name__
