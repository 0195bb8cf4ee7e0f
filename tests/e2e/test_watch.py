"""`escalade watch` and the SDK's `watch` over a real server."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

import escalade
from escalade.v1.operations_service_pb2 import FEED_KIND_ESCALATED
from tests.e2e.test_commands import command
from tests.e2e.world import COMMAND, START_S, reference, world

HARD = ("--task-type", "architecture", "--files", "10", "--tokens", "50000")


async def _escalate(target: str) -> None:
    code, _, err = await command("complete", "--target", target, *HARD, "Design it.")
    assert code == 0, err


async def test_escalations_are_seen_as_they_come_and_again_later(tmp_path: Path) -> None:
    async with world(tmp_path, reference(2)) as made:
        await _escalate(made.target)
        process = await asyncio.create_subprocess_exec(
            COMMAND, "watch", "--target", made.target, "--since", "start", "--json",
            "--kind", "escalated",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            # What runs in the background of a shell ignores the signal, and its children do.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            first = json.loads(await process.stdout.readline())
            await _escalate(made.target)
            second = json.loads(await process.stdout.readline())
            process.send_signal(signal.SIGINT)
            code = await process.wait()
        assert first["escalated"]["toLayer"] == second["escalated"]["toLayer"] == "premium_reserve"
        assert first["cursor"] != second["cursor"]
        assert code == 0

        async with escalade.AsyncClient(made.target) as client:
            async for response in client.watch(first["cursor"], kinds=[FEED_KIND_ESCALATED]):
                assert [entry.cursor for entry in response.entries] == [second["cursor"]]
                break


async def test_what_is_wrong_is_said_with_its_mend(tmp_path: Path) -> None:
    async with world(tmp_path, reference(2)) as made:
        watch = ("watch", "--target", made.target, "--since")
        code, _, err = await command(*watch, "ffffffff.7")
        assert code == 1
        assert err.count("--since start") == 1
        code, _, err = await command(*watch, "yesterday")
        assert code == 1
        assert "no cursor" in err
        client = escalade.AsyncClient(made.target)
        with pytest.raises(escalade.CursorExpired) as caught:
            await anext(client.watch("ffffffff.7"))
        assert caught.value.metadata["oldest"].endswith(".0")
        await client.close()
