"""The commands as people run them: processes, signals, exit codes, and what is printed."""

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

import escalade
from escalade_server.provider_simulator import ModelScript, default_scenario
from escalade_server.strategy.load import loads
from tests.e2e.world import COMMAND, KEY_NAME, START_S, reference, world

SLOW = ModelScript(chunks=40, chunk_interval_ms=25)


async def command(*arguments: str | Path, stdin: str = "") -> tuple[int, str, str]:
    """Run a command to its end: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), START_S)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_complete_streams_an_answer_and_tells_how(tmp_path: Path) -> None:
    async with world(tmp_path, reference(2)) as made:
        code, out, err = await command(
            "complete", "--target", made.target, "--task-type", "parse", "Parse this."
        )
        assert code == 0, err
        assert out.strip()
        lines = err.splitlines()
        assert lines[0].startswith("Assessed: parse scores 0.7")
        assert lines[1].startswith("Selected: openai/gpt-4o-mini")
        assert lines[-1].startswith("Score 0.7")


async def test_complete_reads_standard_input_and_prints_json(tmp_path: Path) -> None:
    async with world(tmp_path, reference(2)) as made:
        code, out, err = await command(
            "complete", "--target", made.target, "--json", "--task-type", "architecture",
            "--files", "10", "--tokens", "50000", "-",
            stdin="Design it.",
        )  # fmt: skip
        assert code == 0, err
        answer = json.loads(out)
        assert answer["layer"] == "premium_reserve"
        assert answer["text"]
        assert [e["reason"] for e in answer["escalations"]] == ["COMPLEXITY"]
        assert answer["charged_nano_usd"] > 0
        assert not err


async def test_complete_tells_a_step_of_a_session_and_its_evidence(tmp_path: Path) -> None:
    async with world(tmp_path, reference(1)) as made:
        step = ["complete", "--target", made.target, "--json", "--task-type", "parse"]
        step += ["--session", "run-1"]
        code, out, err = await command(*step, "--evidence", "failed_check=test_a", "Go.")
        assert code == 0, err
        answer = json.loads(out)
        assert [e["reason"] for e in answer["escalations"]] == ["EVIDENCE"]
        assert "a check of the caller failed in the session" in answer["story"]
        code, _, err = await command(*step, "--evidence", "bad_mood", "Go.")
        assert code != 0
        assert "bad_mood" in err
        assert "failed_check" in err


async def test_status_shows_what_was_used(tmp_path: Path) -> None:
    async with world(tmp_path, reference(1)) as made:
        async with escalade.AsyncClient(made.target) as client:
            await client.complete("Parse this.", task="parse")
        code, out, err = await command("status", "--target", made.target)
        assert code == 0, err
        mini = next(line for line in out.splitlines() if "gpt-4o-mini" in line and "50" in line)
        assert "1" in mini.split()
        code, out, err = await command("status", "--target", made.target, "--json")
        assert code == 0, err
        quota = json.loads(out)["layers"][0]["models"][0]["quotas"][0]
        assert (quota["spent"], quota["held"], quota["limit"]) == (1, 0, 50)


async def test_nobody_there_is_said_with_the_mend() -> None:
    code, out, err = await command("status", "--target", "127.0.0.1:1")
    assert code == 3
    assert "nobody listens at 127.0.0.1:1" in err
    assert "Start `escalade serve`" in err
    assert len(err.splitlines()) == 1
    assert not out


async def test_a_task_that_fails_says_when_to_come_back(tmp_path: Path) -> None:
    one = reference(1).partition("    - name: budget_fallback")[0].replace("50/day", "1/day")
    only_mini = one.partition("        - provider: google")[0] + "      priority: 1\n"
    async with world(tmp_path, only_mini) as made:
        arguments = ("complete", "--target", made.target, "--whole", "--task-type", "parse", "Go.")
        code, _, err = await command(*arguments)
        assert code == 0, err
        code, out, err = await command(*arguments, "--no-wait")
        assert code == 4
        assert "RATE_LIMITED" in err
        assert "Try again at" in err
        assert not out


async def test_sigterm_lets_a_running_call_end(tmp_path: Path) -> None:
    scripts = {"openai/gpt-4o-mini": SLOW}
    async with (
        world(tmp_path, reference(1), scripts) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        async with client.stream("Parse this.", task="parse") as stream:
            first = await anext(aiter(stream.text))
            made.ask(signal.SIGTERM)
            answer = await stream.answer()
        assert first
        assert len(answer.text) > len(first)
        assert await made.stop() == 0
        assert [line["event"] for line in made.logged("server.stopped")] == ["server.stopped"]
        account = made.account("openai", "gpt-4o-mini")
        assert (account.requests_finished, account.disconnects) == (1, 0)


async def test_what_outlives_the_grace_is_cut_and_booked(tmp_path: Path) -> None:
    scripts = {"openai/gpt-4o-mini": ModelScript(chunks=1_000, chunk_interval_ms=50)}
    async with (
        world(tmp_path, reference(1), scripts, grace="300ms") as made,
        escalade.AsyncClient(made.target) as client,
        client.stream("Parse this.", task="parse") as stream,
    ):
        assert await anext(aiter(stream.text))
        made.ask(signal.SIGTERM)
        with pytest.raises(escalade.EscaladeError):
            await stream.answer()
        assert await made.stop() == 0
        assert made.account("openai", "gpt-4o-mini").streams_open == 0
        assert all("unsettled" not in line for line in made.logged("server.draining"))
    async with (
        world(tmp_path, reference(1)) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        quota = (await client.status()).layers[0].models[0].quotas[0]
        assert (quota.spent, quota.held) == (1, 0)


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    scripts = {"openai/gpt-4o-mini": ModelScript(chunks=1_000, chunk_interval_ms=50)}
    async with world(tmp_path, reference(1), scripts) as made:
        async with (
            escalade.AsyncClient(made.target) as client,
            client.stream("Parse this.", task="parse") as stream,
        ):
            assert await anext(aiter(stream.text))
            made.ask(signal.SIGINT)
            with suppress(TimeoutError):
                await asyncio.wait_for(made.process.wait(), 0.5)
            assert made.process.returncode is None, "it drains"
            made.ask(signal.SIGINT)
            assert await asyncio.wait_for(made.process.wait(), START_S) == 128 + signal.SIGINT
        made.expected_exit = 128 + signal.SIGINT


async def test_what_was_used_survives_a_restart(tmp_path: Path) -> None:
    for start in (1, 2):
        async with (
            world(tmp_path, reference(1)) as made,
            escalade.AsyncClient(made.target) as client,
        ):
            assert made.started["ledger_is_new"] is (start == 1)
            await client.complete("Parse this.", task="parse")
            quota = (await client.status()).layers[0].models[0].quotas[0]
            assert quota.spent == start


async def test_a_second_server_on_the_same_state_or_port_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path, reference(1)) as made:
        strategy = tmp_path / "strategy.yaml"
        code, _, err = await command(
            "serve", "--strategy", strategy, "--listen", "127.0.0.1:0",
            "--state", tmp_path / "state.sqlite3",
        )  # fmt: skip
        assert code == 1
        assert str(made.process.pid) in err, err
        assert "another state file" in err
        code, _, err = await command(
            "serve", "--strategy", strategy, "--listen", made.target, "--state", "memory:"
        )
        assert code == 1
        assert f"cannot listen on {made.target}" in err


@pytest.mark.parametrize("version", [1, 2])
async def test_the_reference_files_serve_and_say_which_keys_lack(
    tmp_path: Path, version: int
) -> None:
    file = tmp_path / "strategy.yaml"
    file.write_text(reference(version))
    environ = {name: text for name, text in os.environ.items() if not name.endswith("_API_KEY")}
    process = await asyncio.create_subprocess_exec(
        COMMAND, "serve", "--strategy", file, "--listen", "127.0.0.1:0",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environ, cwd=tmp_path,
    )  # fmt: skip
    assert process.stdout is not None
    told: list[str] = []
    while not told or not told[-1].startswith("Listening on"):
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        assert line, told
        told.append(line.decode().rstrip())
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0
    text = "\n".join(told)
    for name in ("OPENAI_API_KEY", "DEEPSEEK_API_KEY", "ANTHROPIC_API_KEY", "NANO_GPT_API_KEY"):
        assert f"set {name}" in text
    assert "NEW, EMPTY LEDGER in escalade.sqlite3" in text
    assert "not yet in effect" not in text
    assert (tmp_path / "escalade.sqlite3").exists()


async def test_simulated_providers_answer_like_a_vendor(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        COMMAND, "simulate-providers", "--json", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        started = json.loads(line)
        assert started["providers"]["openai"] == f"{started['base_url']}/openai/v1"
        strategy = tmp_path / "strategy.yaml"
        overrides = "".join(
            f"  {name}:\n    base_url: {url}\n    dialect: openai\n    api_key_env: {KEY_NAME}\n"
            for name, url in started["providers"].items()
            if name in reference(1)
        )
        strategy.write_text(f"{reference(1)}\nproviders:\n{overrides}")
        assert (await command("check", strategy))[0] == 0
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), START_S) == 0


@pytest.mark.parametrize("version", [1, 2])
def test_simulated_providers_have_the_models_of_the_reference_files(version: int) -> None:
    providers = default_scenario().providers
    for model in loads(reference(version), environ={}).catalog.models:
        assert model.wire_id in providers[model.provider].models, model.key
