"""The scripted service, as users have it: what the README shows runs."""

import asyncio
import inspect
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import escalade
from escalade import testing
from escalade.testing import Cut, Pause, Refused, answer
from tests.sdk.faces import Face

README = Path(__file__).resolve().parents[2] / "client_sdk" / "README.md"


def readme_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_script_of_the_readme_runs() -> None:
    exec(compile(readme_blocks()[2], "README", "exec"), {})  # noqa: S102 - our own


def test_the_tests_of_the_readme_pass() -> None:
    made: dict[str, Callable[..., object]] = {}
    source = readme_blocks()[3].replace("@pytest.fixture\n", "")
    exec(compile(source, "README", "exec"), made)  # noqa: S102 - our own
    with testing.Server() as server:
        made["test_my_agent_survives_a_proxy"](server)
        assert len(server.calls) == 2
    coroutine = made["test_my_agent_with_asyncio"]()
    assert inspect.iscoroutine(coroutine)
    asyncio.run(coroutine)


@pytest.mark.parametrize(
    "row", [line for line in README.read_text().splitlines() if line.startswith("| a")]
)
def test_the_table_of_the_readme_holds(row: str, face: Face) -> None:
    words = {name: getattr(testing, name) for name in testing.__all__} | {
        "dots": testing.selected()
    }
    for source in re.findall(r"`([^`]+)`", row):
        reply: testing.Reply = eval(source.replace("...", "dots"), words)  # noqa: S307 - our own
        with testing.Server([reply, answer("again")]) as server:
            seen = face.stream(server, on_restart=lambda _: None)
        assert isinstance(seen.error, escalade.StatusError) == ("error" in row)
        assert seen.snapshot.finished == ("error" not in row)


def test_every_event_can_be_scripted(face: Face) -> None:
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    reply: testing.Reply = [
        testing.assessed(7.5, task_type="plan", layer="paid"),
        testing.waiting("token", position=3, earliest=noon, reason="MONEY"),
        testing.selected(),
        testing.fallback("a", "b", failure_class="TIMEOUT"),
        testing.reasoning("hm"),
        testing.text("so"),
        testing.finished(),
    ]
    with testing.Server([reply]) as server:
        seen = face.stream(server)

    assert [str(event) for event in seen.events] == [
        "Assessed: plan scores 7.5, starts in paid",
        "Waiting until 2030-01-01 12:00:00 UTC, place 3 (MONEY)",
        "Selected: openai/gpt-4o-mini in free",
        "Fallback: scripted/a → scripted/b (TIMEOUT)",
        "hm",
        "so",
        "Finished: STOP",
    ]
    assert (seen.snapshot.reasoning, seen.snapshot.text) == ("hm", "so")


def test_a_slow_reply_takes_its_time(face: Face) -> None:
    reply = testing.slowly(answer("a", "b"), 0.1)
    with testing.Server([reply]) as server:
        started = time.monotonic()
        assert face.complete(server).text == "ab"

    assert time.monotonic() - started >= 0.2  # whole: Selected and Finished are left


def test_replies_can_be_added_under_way(face: Face) -> None:
    with testing.Server([answer("a")]) as server:
        server.add(answer("b"), answer("c"))
        texts = [face.complete(server).text for _ in range(2)]
        server.add([Refused("BUDGET_EXHAUSTED")])
        texts.append(face.complete(server).text)
        with pytest.raises(escalade.BudgetExhausted):
            face.complete(server)

    assert texts == ["a", "b", "c"]


def test_a_server_that_stopped_is_gone(face: Face) -> None:
    server = testing.Server([answer("a"), [Pause(30), Cut()]])
    with server:
        assert face.complete(server).text == "a"
        server.stop()
        with pytest.raises(escalade.Unreachable):
            face.complete(server)


async def test_an_asyncio_test_is_not_held_up() -> None:
    async with testing.Server(lambda _: answer("x")) as server, server.async_client() as client:
        texts = await asyncio.gather(*(client.complete("x") for _ in range(20)))

    assert [one.text for one in texts] == ["x"] * 20
    assert len({call.connection for call in server.calls}) == 1
