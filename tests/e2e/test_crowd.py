"""The crowd in short: `make crowd` is all of it."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.crowd.crowd import crowd
from tests.stores.servers import serving


@pytest.mark.parametrize("store", ["sqlite", "redis"])
async def test_a_crowd_on_a_few_cents_overspends_nothing(tmp_path: Path, store: str) -> None:
    with ExitStack() as stack:
        state = None
        if store == "redis":
            server = serving(store, tmp_path, "--maxmemory-policy", "noeviction")
            state = stack.enter_context(server).url
        figures = await crowd(
            tmp_path, state=state, processes=2, callers=60, cap_nanos=40_000_000, seconds=20.0
        )
    figures.check()
    assert figures.seen["left in mid-answer"], figures.lines()
    assert figures.seen["refused: BUDGET_EXHAUSTED"], figures.lines()
