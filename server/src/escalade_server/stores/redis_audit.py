"""What people enter in a ledger in Redis: as ``stores.audit`` does in a file, in one script."""

from collections.abc import Callable

from escalade_server.core.catalog import Counter, Period, Unit
from escalade_server.core.money import CAP_NANOS_MAX
from escalade_server.core.window import Window, slides, total
from escalade_server.engine.ports import Clock, StoreError
from escalade_server.stores import redis_wire as wire
from escalade_server.stores.audit import Change, Standing
from escalade_server.stores.redis_desk import RedisDesk
from escalade_server.stores.redis_link import Place
from escalade_server.stores.redis_wire import Reply


class RedisLedgerDesk:
    """The ledger of several servers, opened for a person. ``close`` it."""

    def __init__(
        self,
        place: Place,
        clock: Clock,
        calendar: Callable[[Counter, int], Window],
        *,
        store_clock: Clock | None = None,
    ) -> None:
        """Say where; ``store_clock`` is given by tests only: the store's own clock rules."""
        self._place, self._clock, self._calendar = place, clock, calendar
        self._store_clock = store_clock
        self._desk = RedisDesk(place)

    def close(self) -> None:
        """Disconnect; safe twice."""
        self._desk.close()

    def standings(self) -> list[Standing]:
        """List the counters that hold anything in windows that have not ended."""
        reply = self._run("counters")
        found = []
        kinds = zip(reply.notes[::2], reply.notes[1::2], strict=True)
        for seen, (unit, period) in zip(reply.seen, kinds, strict=True):
            balance = total([part.balance for part in seen.parts], reply.now_ms)
            if balance is not None:
                found.append(Standing(seen.name, Unit(unit), Period(period), *balance))
        return sorted(found, key=lambda standing: standing.key)

    def changes(self) -> list[Change]:
        """List what people changed, oldest first."""
        notes = self._run("audit").notes
        rows = [notes[place : place + 7] for place in range(0, len(notes), 7)]
        return [
            Change(int(at), who, counter, window, int(old), int(new), reason)
            for at, who, counter, window, old, new, reason in rows
        ]

    def enter(
        self,
        key: str,
        value: int,
        *,
        is_change: bool,
        who: str,
        reason: str,
        known: Counter | None = None,
    ) -> Change:
        """Set what is spent in a counter's window, or change it by a value.

        ``known`` is the counter as a strategy has it: with it, one that nothing was spent of yet
        can be entered, too.

        Raises:
            StoreError: no such counter, a window that slides, or a value out of range.
        """
        if abs(value) > CAP_NANOS_MAX:
            raise StoreError(f"{value} is more than can be counted exactly")
        if known is not None and slides(known.period):
            raise StoreError(f"{key} counts over a {known.period.value}: it forgets by itself")
        now_ms = self._clock.now_ms()
        reply = self._enter(key, value, known, now_ms, is_change=is_change, who=who, reason=reason)
        if reply.kind == "window":  # it is another day there
            now_ms = reply.now_ms
            reply = self._enter(
                key, value, known, now_ms, is_change=is_change, who=who, reason=reason
            )
        if reply.kind != "ok":
            raise _trouble(key, reply)
        at_ms, window, old, new = reply.notes
        return Change(int(at_ms), who, key, window, int(old), int(new), reason)

    def _enter(
        self, key: str, value: int, known: Counter | None, now_ms: int, *, is_change: bool,
        who: str, reason: str,
    ) -> Reply:  # fmt: skip
        counter = None if known is None else wire.counter_of(known, self._calendar, now_ms)
        return self._run("enter", key, counter, value, is_change, who, reason)

    def _run(self, script: str, *fields: wire.Field) -> Reply:
        hand = None if self._store_clock is None else self._store_clock.now_ms()
        return self._desk.run(script, *fields, now_ms=hand)


def _trouble(key: str, reply: Reply) -> StoreError:
    match reply.kind:
        case "key":
            return wire.key_trouble(reply.notes)
        case "unknown":
            return StoreError(
                f"there is no counter {key!r}: `escalade ledger show` lists them; give --strategy"
                " for one of which nothing was spent yet"
            )
        case "unused":
            return StoreError(
                f"nothing was spent of {key} in its window yet: give --strategy, which says when"
                " its window ends"
            )
        case "slides":
            return StoreError(f"{key} counts over a {reply.notes[0]}: it forgets by itself")
        case _:
            return StoreError(f"{key} would have {reply.notes[-1]} spent; 0 or more is possible")
