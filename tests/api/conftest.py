from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.route_world import Served, served


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    """A whole server in this process, over a state of its own."""
    async with served(tmp_path) as made:
        yield made
