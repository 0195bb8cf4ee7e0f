"""What people change beside a server reaches the tasks that wait in it."""

import asyncio
from pathlib import Path

import escalade
from tests.bootstrap.test_bootstrap import options, serving, simulated
from tests.cli.commands import run

COUNTER = "requests/day:openai/default/gpt-4o-mini"
DAYS_S = 2 * 86_400.0


async def test_a_task_that_waits_goes_on_when_the_ledger_is_corrected(tmp_path: Path) -> None:
    async with simulated() as simulator:
        told = options(tmp_path, simulator.provider_url("openai"))

        async def enter(spent: int) -> None:
            words = ("ledger", "set", COUNTER, f"{spent}", "--reason", "counted by hand")
            place = ("--strategy", told.strategy, "--state", told.state or "")
            done = await asyncio.to_thread(run, *words, *place)
            assert done.exit_code == 0, done.output

        async with (
            serving(told) as running,
            escalade.AsyncClient(running.target, timeout=DAYS_S) as client,
        ):
            await client.complete("Say something.")
            await enter(50)
            heard: list[escalade.Announcement] = []
            asked = asyncio.ensure_future(client.complete("And now?", on_event=heard.append))
            async with asyncio.timeout(60):
                while not any(isinstance(event, escalade.Waiting) for event in heard):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                for spent in range(49, 0, -1):  # it is looked at once a second
                    await enter(spent)
                    if asked.done():
                        break
                    await asyncio.sleep(0.1)
                assert (await asked).text
