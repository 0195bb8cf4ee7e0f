"""Who is told what happens: the sinks of the strategy in force, and the desk that serves them."""

import asyncio
from collections.abc import Callable

from escalade_server.engine.background import Background
from escalade_server.engine.feed import Feed
from escalade_server.engine.ports import (
    Clock,
    Duty,
    Entropy,
    FeedStore,
    Leadership,
    Notice,
    Poster,
)
from escalade_server.notify.desk import Desk
from escalade_server.notify.webhook import Shape, Target, Webhook
from escalade_server.strategy.load import Loaded
from escalade_server.strategy.notifications import Hook
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log


class LoggedNotices:
    """``Notifier`` whose sink is the log."""

    def __init__(self, log: Log) -> None:
        """Write to this log."""
        self._log = log

    def notify(self, notice: Notice, done: Callable[[], None]) -> None:
        """Write one line."""
        self._log.warning(
            names.NOTICE, kind=notice.kind, detail=notice.text, count=notice.count, id=notice.id
        )
        done()


class Notices:
    """The desk and its sinks; a reload changes the sinks. Owned by one event loop."""

    def __init__(
        self, feed: Feed, store: FeedStore, *, clock: Clock, entropy: Entropy, poster: Poster,
        log: Log, loaded: Callable[[], Loaded], leads: Leadership,
    ) -> None:  # fmt: skip
        """``loaded`` is the strategy in force; of several servers one leads, and tells people."""
        self._clock, self._entropy, self._poster, self._log = clock, entropy, poster, log
        self._loaded = loaded
        self._hooks: dict[Target, tuple[Webhook, asyncio.Task[None]]] = {}
        self._lines = LoggedNotices(log)
        self._desk = Desk(
            feed, store, clock,
            rules=lambda: loaded().catalog.rules,
            log=lambda: self._lines if loaded().sinks.log else None,
            hooks=self._hooks_now,
            leads=lambda: leads.holds(Duty.NOTICES),
        )  # fmt: skip

    def start(self, background: Background) -> None:
        """Work until ``background`` is stopped."""
        background.start(self._desk.run)

    def close(self) -> None:
        """Stop sending: what is on its way is sent again after the next start."""
        for _, work in self._hooks.values():
            work.cancel()
        self._hooks.clear()

    def _hooks_now(self) -> tuple[Webhook, ...]:
        """Keep the webhooks of the strategy in force, and let go of others."""
        wanted = [target for hook in self._loaded().sinks.hooks for target in _targets(hook)]
        for gone in self._hooks.keys() - set(wanted):
            webhook, work = self._hooks.pop(gone)
            work.cancel()
            webhook.give_up()
        return tuple(self._hook(target) for target in wanted)

    def _hook(self, target: Target) -> Webhook:
        known = self._hooks.get(target)
        if known is not None and not known[1].done():
            return known[0]
        webhook = Webhook(target, self._poster, self._clock, self._entropy, self._failed)
        self._hooks[target] = webhook, asyncio.create_task(webhook.run())
        return webhook

    def _failed(self, name: str, why: str) -> None:
        self._log.error(names.NOTICE_NOT_SENT, webhook=name, detail=why)


def _targets(hook: Hook) -> list[Target]:
    """Answer the target of a webhook; none if it cannot be used."""
    if hook.url is None:
        return []
    shape = Shape.SLACK if hook.slack else Shape.PLAIN
    key = "" if hook.key is None else hook.key.reveal()
    return [Target(hook.name, hook.url.reveal(), shape, key)]
