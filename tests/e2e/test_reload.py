"""SIGHUP to a real server: it reads its strategy again, and goes on serving."""

import asyncio
import signal
from pathlib import Path

import pytest

import escalade
from tests.e2e.world import KEY_NAME, World, world

STRATEGY = """\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      models: [{provider: openai, model: gpt-4o-mini, rate_limit: 1/day}]
"""


async def logged(made: World, event: str, count: int) -> None:
    async with asyncio.timeout(20):
        while len(made.logged(event)) < count:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.05)


@pytest.mark.fault("G8")
@pytest.mark.parametrize("by_signal", [True, False])
async def test_a_strategy_is_taken_or_refused_and_the_server_serves_on(
    tmp_path: Path, by_signal: object
) -> None:
    async with (
        world(tmp_path, STRATEGY) as made,
        escalade.AsyncClient(made.target) as client,
    ):

        async def written(text: str, event: str, count: int) -> None:
            file.write_text(text)
            if by_signal:
                made.process.send_signal(signal.SIGHUP)
            await logged(made, event, count)

        file = tmp_path / "strategy.yaml"
        whole = file.read_text()
        assert KEY_NAME in whole
        assert (await client.complete("Say it.")).text
        await written("fallback_strategy: {layers: []}\n", "strategy.refused", 1)
        await written(whole.replace("1/day", "2/day"), "strategy.reloaded", 1)
        assert (await client.complete("Say it again.")).text  # the second of two a day
        status = await client.status()
        assert [quota.spent for quota in status.layers[0].models[0].quotas] == [2]
        assert made.process.returncode is None
