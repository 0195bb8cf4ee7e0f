"""Webhooks against a real HTTP server: signed, tried again, bounded, and led nowhere else."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from escalade_server.engine.ports import Notice
from escalade_server.notify import webhook as webhook_module
from escalade_server.notify.webhook import (
    ATTEMPTS_MAX,
    BACKOFF_MS_MAX,
    QUEUE_MAX,
    Shape,
    Target,
    Webhook,
)
from escalade_server.providers.http import HttpClient, HttpLimits
from escalade_server.providers.poster import HttpPoster
from tests.engine.shell import Serial
from tests.notify.receiver import Receiver, receiving
from tests.stores.world import NOW_MS, HandClock

KEY = "signing-key"


def notice(number: int = 1, text: str = "80 % used") -> Notice:
    return Notice(f"f.{number}", "alert.quota", text, NOW_MS, NOW_MS - 5, 3, {"percent": 80})


class Sender:
    """A webhook at work, and what became of its notices."""

    def __init__(self, hook: Webhook, failed: list[tuple[str, str]]) -> None:
        self.hook, self.failed = hook, failed
        self.done = 0
        self.changed = asyncio.Event()

    def notify(self, *notices: Notice) -> None:
        for each in notices:
            self.hook.notify(each, self._done)

    def _done(self) -> None:
        self.done += 1
        self.changed.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while self.done < count:
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def sending(
    receiver: Receiver, shape: Shape = Shape.PLAIN, key: str = KEY
) -> AsyncIterator[Sender]:
    failed: list[tuple[str, str]] = []
    async with HttpClient(HttpLimits()) as http:
        target = Target("HOOK", receiver.url, shape, key)
        hook = Webhook(
            target, HttpPoster(http), HandClock(), Serial(), lambda *told: failed.append(told)
        )
        work = asyncio.create_task(hook.run())
        try:
            yield Sender(hook, failed)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_module, "BACKOFF_MS", 2)
    monkeypatch.setattr(webhook_module, "TIMEOUT_MS", 200)


async def test_a_notice_is_signed_json() -> None:
    async with receiving() as receiver, sending(receiver) as sender:
        sender.notify(notice())
        await sender.until(1)
    [body], [headers] = receiver.bodies, receiver.headers
    assert json.loads(body) == {
        "id": "f.1", "kind": "alert.quota", "text": "80 % used", "at_ms": NOW_MS,
        "since_ms": NOW_MS - 5, "count": 3, "facts": {"percent": 80},
    }  # fmt: skip
    assert headers["content-type"] == "application/json"
    assert headers["escalade-notice"] == "f.1"
    at, _, signed = headers["escalade-signature"].partition(",v1=")
    assert at == f"t={NOW_MS // 1_000}"
    wanted = hmac.new(KEY.encode(), at[2:].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(signed, wanted)


async def test_slack_gets_its_shape_and_no_markup_of_ours_or_others() -> None:
    async with receiving() as receiver, sending(receiver, Shape.SLACK, key="") as sender:
        sender.notify(notice(text="<!channel> & more"))
        await sender.until(1)
    assert json.loads(receiver.bodies[0]) == {"text": "*Escalade* &lt;!channel&gt; &amp; more"}
    assert "escalade-signature" not in receiver.headers[0]


@pytest.mark.usefixtures("_fast")
async def test_what_fails_is_tried_again_under_the_same_id() -> None:
    async with receiving(500, 429, 503, 200) as receiver, sending(receiver) as sender:
        sender.notify(notice(1), notice(2))
        await sender.until(2)
    assert [headers["escalade-notice"] for headers in receiver.headers] == ["f.1"] * 4 + ["f.2"]
    assert sender.failed == []


@pytest.mark.usefixtures("_fast")
async def test_a_notice_is_given_up_after_a_while_and_the_next_is_sent() -> None:
    async with receiving(*[500] * ATTEMPTS_MAX, 200) as receiver, sending(receiver) as sender:
        sender.notify(notice(1), notice(2))
        await sender.until(2)
    assert len(receiver.bodies) == ATTEMPTS_MAX + 1
    assert sender.failed == [("HOOK", f"the answer was 500, {ATTEMPTS_MAX} times")]


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404, 410])
async def test_refusals_and_redirects_are_final(status: int) -> None:
    async with receiving(status) as receiver, sending(receiver) as sender:
        sender.notify(notice())
        await sender.until(1)
    assert (len(receiver.bodies), receiver.elsewhere) == (1, 0)
    assert sender.failed == [("HOOK", f"the answer was {status}")]


@pytest.mark.usefixtures("_fast")
async def test_a_server_that_hangs_is_left_in_time() -> None:
    async with receiving(0, 200) as receiver, sending(receiver) as sender:
        sender.notify(notice())
        await sender.until(1)
    assert len(receiver.bodies) == 2
    assert sender.failed == []


@pytest.mark.usefixtures("_fast")
async def test_nobody_there_shows_neither_address_nor_key() -> None:
    async with receiving() as receiver:
        pass
    async with sending(receiver) as sender:
        sender.notify(notice())
        await sender.until(1)
    [(name, why)] = sender.failed
    assert name == "HOOK"
    assert receiver.url not in why
    assert KEY not in why + repr(Target("HOOK", receiver.url, key=KEY))
    assert receiver.url not in repr(Target("HOOK", receiver.url, key=KEY))


async def test_a_full_queue_takes_no_more_and_waits_for_nobody() -> None:
    async with receiving(0) as receiver, sending(receiver) as sender:
        sender.notify(*(notice(number) for number in range(QUEUE_MAX + 10)))
        assert sender.done == 10
        assert len(sender.failed) == 10
        await receiver.until(1)


def test_pauses_grow_and_are_bounded() -> None:
    hook = Webhook(
        Target("HOOK", "u"), HttpPoster.__new__(HttpPoster), HandClock(), Serial(), print
    )
    pauses = [hook._pause_ms(attempt) for attempt in range(1, 12)]
    assert pauses == sorted(pauses)
    assert pauses[0] >= 500
    assert pauses[-1] <= BACKOFF_MS_MAX
