"""A watch that breaks goes on where it was: nothing twice, nothing missed, and it says so."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

import escalade
from escalade.v1.operations_service_pb2 import FeedEntry, WatchEventsResponse
from escalade_server.cli import feed

Script = Sequence[int | Exception]
"""Of one call: numbers of entries that come, then perhaps an error."""


class Scripted:
    """A client whose watches do as they are told, one script a call."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.cursors: list[str] = []

    async def watch(self, cursor: str, **_: Any) -> AsyncIterator[WatchEventsResponse]:
        self.cursors.append(cursor)
        if not self.scripts:
            await asyncio.Event().wait()
        for step in self.scripts.pop(0):
            if isinstance(step, Exception):
                raise step
            entries = [FeedEntry(cursor=f"e.{step}")] if step else []
            yield WatchEventsResponse(entries=entries, cursor=f"e.{step}")


def expired(oldest: str) -> escalade.CursorExpired:
    error = escalade.CursorExpired("gone")
    error.metadata = {"oldest": oldest}
    return error


async def follow(client: Scripted, cursor: str, count: int, told: list[str]) -> list[str]:
    """Follow until so many entries came; answer their cursors."""
    found: list[str] = []
    watched = feed.follow(cast("escalade.AsyncClient", client), cursor, told.append)
    async with asyncio.timeout(20):
        async for response in watched:
            found += [entry.cursor for entry in response.entries]
            if len(found) >= count:
                break
    return found


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "AGAIN_S", 0.001)
    monkeypatch.setattr(feed, "AGAIN_MOST_S", 0.002)


@pytest.mark.parametrize(
    "error",
    [
        escalade.Unreachable("nobody"),
        escalade.StreamCut("cut"),
        escalade.Draining("draining"),
        escalade.LedgerUnavailable("no disk"),
    ],
)
async def test_it_goes_on_from_the_last_cursor_and_says_so_once(error: Exception) -> None:
    told: list[str] = []
    client = Scripted([0, 1, 2, error], [error], [error], [3], [4])
    assert await follow(client, "", 4, told) == ["e.1", "e.2", "e.3", "e.4"]
    assert client.cursors == ["", "e.2", "e.2", "e.2", "e.3"]
    assert told[0].startswith("the feed broke off, trying again (")
    assert told[1] == "the feed goes on"
    assert told[2:] == [
        "the feed broke off, trying again (the server ended it)",
        "the feed goes on",
    ]


async def test_even_before_any_news_it_knows_where_it_was() -> None:
    client = Scripted([0, escalade.Unreachable("nobody")], [1])
    assert await follow(client, "", 1, []) == ["e.1"]
    assert client.cursors == ["", "e.0"]


async def test_what_is_lost_meanwhile_is_said() -> None:
    told: list[str] = []
    client = Scripted([5, escalade.Unreachable("nobody")], [expired("f.7")], [8])
    assert await follow(client, "e.4", 2, told) == ["e.5", "e.8"]
    assert client.cursors == ["e.4", "e.5", "f.7"]
    assert any("not kept any more" in sentence for sentence in told)


async def test_start_is_the_oldest_that_is_kept() -> None:
    told: list[str] = []
    client = Scripted([expired("e.3")], [4])
    assert await follow(client, feed.START, 1, told) == ["e.4"]
    assert client.cursors == [feed.NOWHERE, "e.3"]
    assert told == []


@pytest.mark.parametrize(
    "error",
    [expired("e.3"), escalade.Unreachable("nobody"), escalade.RoleRequired("an agent")],
)
async def test_what_fails_at_first_is_the_callers_to_hear(error: Exception) -> None:
    with pytest.raises(type(error)):
        await follow(Scripted([error]), "e.1", 1, [])


async def test_what_is_no_break_ends_it() -> None:
    client = Scripted([0, escalade.RoleRequired("revoked")])
    with pytest.raises(escalade.RoleRequired):
        await follow(client, "", 1, [])


def test_breaks_are_over_by_themselves() -> None:
    for cls in (escalade.RoleRequired, escalade.CallerUnknown, escalade.ServiceBug):
        assert not issubclass(cls, feed.BREAKS)
