"""A wait that outlives its server: the place in the queue is kept, and nothing is charged twice."""

import asyncio
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

import escalade
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from tests.e2e.test_repeats import road, until
from tests.e2e.world import reference, world

AGAIN_MS = 25_000
CLOSED = ModelScript(
    text="At last.",
    faults=(Fault(kind=FaultKind.RATE_LIMIT, on_requests=(1,), retry_after_ms=AGAIN_MS),),
)
TEXT = reference(1).partition("    - name: budget_fallback")[0]
ONLY_MINI = TEXT.partition("        - provider: google")[0] + "      priority: 1\n"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_wait_survives_a_restart_of_the_server(tmp_path: Path, how: signal.Signals) -> None:
    scripts = {"openai/gpt-4o-mini": CLOSED}
    async with (
        world(tmp_path, ONLY_MINI, scripts) as made,
        road(made) as (carrier, target),
        escalade.AsyncClient(target, timeout=90) as client,
    ):
        told: dict[str, list[escalade.Announcement]] = {"old": [], "young": []}

        def ask(name: str) -> "asyncio.Task[escalade.Answer]":
            asked = client.complete("Go.", task="parse", on_event=told[name].append)
            return asyncio.ensure_future(asked)

        def waits(name: str) -> list[escalade.Waiting]:
            return [event for event in told[name] if isinstance(event, escalade.Waiting)]

        old = ask("old")
        await until(lambda: waits("old"))
        young = ask("young")
        await until(lambda: waits("young"))
        earliest = waits("old")[0].earliest
        assert earliest is not None
        assert earliest > datetime.now(UTC)
        made.ask(how)
        if how is signal.SIGKILL:
            await made.killed()
        else:
            assert await made.stop() == 0
        carrier.cut()
        await made.start_again()
        carrier.port = int(made.target.rpartition(":")[2])
        while (status := await client.status()).waiter_count < 2:  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.1)
        answers = await asyncio.gather(old, young)
        received = made.account("openai", "gpt-4o-mini").requests_received
    assert [answer.text for answer in answers] == ["At last."] * 2
    assert received == 3, "the refusal, and one call for each"
    assert [waiter.position for waiter in status.waiters] == [1, 2]
    since = [waiter.since.ToMilliseconds() for waiter in status.waiters]
    assert since[0] < since[1] < status.started.ToMilliseconds(), "they kept their places"
    for heard in told.values():
        again = [event for event in heard if isinstance(event, escalade.Reconnected)]
        assert again
        assert again[-1].resumed
    secret = tmp_path / "state.sqlite3.secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text() not in (tmp_path / "log.jsonl").read_text()
