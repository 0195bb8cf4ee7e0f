"""The store of several hosts: Redis or Valkey, one script a call (quotas C8, pitfalls P20).

Orders are queued; one task takes what is there, sends it over one connection as one batch, and
takes the answers in the same order. Nobody waits longer than the deadline, 250 ms (S9): then the
connection is dropped, and until it is there again every reservation is refused at once, but for
free models in this server's share of what was left (S8).
Settlements are kept and tried again under their id, which changes nothing if they were booked
before (S13); with a journal they outlive the process, and count as done.

Redis is believed as long as it is the same ledger, known by its epoch: an emptied one means that
nothing is known of what was spent, and nothing is admitted (S11).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Counter
from escalade_server.core.commands import Reserve, SetBench, Settle
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.standing import Standing
from escalade_server.core.window import Window
from escalade_server.engine.clock import monotonic_s
from escalade_server.engine.news import Page
from escalade_server.engine.ports import Clock, Kept, Spend, StoreError
from escalade_server.stores import redis_wire as wire
from escalade_server.stores.leasing import Fold
from escalade_server.stores.redis_allowance import Allowance
from escalade_server.stores.redis_beside import Beside, seen
from escalade_server.stores.redis_fields import Writer
from escalade_server.stores.redis_leases import folded_of
from escalade_server.stores.redis_link import Link, Place, Refused, Unreachable
from escalade_server.stores.redis_news import Write, page_of
from escalade_server.stores.redis_orders import (
    LEASE_MS,
    Again,
    Answer,
    Find,
    Free,
    Item,
    Look,
    Order,
    Read,
    Report,
)
from escalade_server.stores.redis_owed import Memory, Owed
from escalade_server.stores.redis_running import Running
from escalade_server.stores.redis_shared import SharedState
from escalade_server.stores.redis_view import View
from escalade_server.stores.redis_wire import Reply

LOOK_S = 0.25
"""How often it is asked what others did, and said that this owner lives."""
BATCH_MAX = 500
APART_MS = 300_000
"""Two clocks this far apart: one of them is broken, and nothing is admitted (T5, T6)."""
SCHEMA = "1"
LOST = (
    "the ledger in Redis is gone or another one: what was spent is not known, so nothing is"
    " admitted; put its data back, or restart every server to begin at zero"
)


class RedisStore(Beside):
    """``Store`` over one Redis or Valkey."""

    def __init__(
        self,
        place: Place,
        clock: Clock,
        calendar: Callable[[Counter, int], Window],
        tell: Callable[[str], None] = lambda _: None,
        *,
        zone: str = "UTC",
        secret: str = "",
        deadline_s: float | None = None,
        store_clock: Clock | None = None,
    ) -> None:
        """Say where; ``open`` does the work.

        ``zone`` is that of the days in reports; ``secret`` is kept if the ledger has none yet, and
        is that of the ledger once it is open. ``tell`` hears why the ledger cannot be reached or
        believed, and nothing (the empty string) when it can be again. ``store_clock`` and
        ``deadline_s`` are given by tests only: the store's own clock rules.
        """
        self._place = place
        self._clock = clock
        self._calendar = calendar
        self._tell = tell
        self._deadline_s = deadline_s or place.deadline_ms / 1_000
        self._store_clock = store_clock
        self._link = Link(place)
        self._view = View()
        self._counters: tuple[Counter, ...] = ()
        self._epoch = ""
        self._shift_ms = 0
        """How far the store's clock is ahead of this machine's."""
        self._queue: list[Item] = []
        self._pump: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closed: str | None = "the store is not open"
        self._down: str | None = None
        """Why nothing is admitted."""
        self._told = ""
        self._owed = Owed(place.journal)
        self._memory, self._identity = Memory(), ""
        self._allowance = Allowance(self._view.board, calendar)
        self._running = Running()
        self.shared = SharedState(monotonic_s)
        """What is heard of other servers: duties and tokens."""
        super().__init__(zone)
        self._writer = Writer(
            calendar, self._days, view=self._view, news=self._news, shared=self.shared,
            running=self._running,
        )  # fmt: skip
        self.secret = secret
        self.is_new = False
        """Whether the ledger was made by ``open``: everything counts from zero."""

    # ------------------------------------------------------------------------------- the port

    async def open(self, counters: Sequence[Counter]) -> None:
        """Connect, book what is owed and what dead owners left; see ``Store``."""
        self._loop = asyncio.get_running_loop()
        self._counters = self._writer.counters = tuple(counters)
        try:
            self._owed.open()
            self._news.adopt(self._counters)
            await self._link.connect()
            await self._begin()
        except BaseException as error:
            await self._let_go()
            if isinstance(error, Unreachable | OSError):
                raise StoreError(f"{error}") from error
            raise
        self._closed = None
        self._watch = asyncio.ensure_future(self._watching())

    async def adopt(
        self, counters: Sequence[Counter], marks: Mapping[str, Sequence[Mark]] | None = None
    ) -> None:
        """Go on with the counters of another strategy; see ``Store``."""
        self._counters = self._writer.counters = tuple(counters)
        now_ms = self._clock.now_ms() + self._shift_ms
        self._news.change(self._counters, marks or {}, self._view.board.standing(now_ms), now_ms)

    def standing(self, now_ms: int) -> Standing:
        """Answer shared state as last told; circuits are not kept here."""
        return self._view.board.standing(now_ms + self._shift_ms)

    def spends(self, now_ms: int) -> tuple[Spend, ...]:
        """Answer every counter of the strategy with what it holds now."""
        now_ms += self._shift_ms
        return self._view.board.spends(self._counters, self._calendar, now_ms)

    def reserve(
        self,
        order: Reserve,
        now_ms: int,  # noqa: ARG002  # the store's clock decides (T6)
    ) -> Awaitable[Reserved | ReservationDenied | Repeated]:
        """Queue a reservation; see ``Store``."""
        return self._submit(order)  # type: ignore[return-value]

    def settle(self, order: Settle, now_ms: int) -> Awaitable[None]:  # noqa: ARG002
        """Queue a settlement; see ``Store``. An id that holds nothing is no error."""
        return self._submit(order)  # type: ignore[return-value]

    def find(self, reservation_id: str) -> Awaitable[Kept | None]:
        """Queue a look at a reservation; see ``Store``."""
        return self._submit(Find(reservation_id))  # type: ignore[return-value]

    def bench(self, order: SetBench, now_ms: int) -> Awaitable[None]:  # noqa: ARG002
        """Queue a cooldown; see ``Store``."""
        return self._submit(order)  # type: ignore[return-value]

    @property
    def advice(self) -> str:
        """Why Redis should be renewed; empty: it need not."""
        return self._link.advice

    def free(self, agent: str, request_id: str) -> None:
        """Let a request id be run by others: its task here has ended (R27). Never blocks."""
        if self._running.end(agent, request_id) and self._closed is None:
            self._submit(self._running.take()).add_done_callback(seen)

    async def close(self) -> None:
        """Serve what is queued, say that this owner leaves, and disconnect; safe twice."""
        if self._closed is not None or self._watch is None:
            return
        self._closed = "the store is closed"
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        while self._pump is not None:
            await asyncio.gather(self._pump, return_exceptions=True)
        with contextlib.suppress(StoreError):  # then others book what is left, when the lease ends
            while self._down is None and self._news:
                await self._ask(self._news.take())
            while self._down is None and self._running:
                await self._ask(self._running.take())
            while self._down is None and await self._ask(Look(lease_ms=0)):
                pass
        await self._let_go()

    # -------------------------------------------------------------------------------- serving

    def _submit(self, order: Order) -> "asyncio.Future[Answer]":
        future: asyncio.Future[Answer] = self._loop.create_future()
        if self._closed is not None:
            future.set_exception(StoreError(self._closed))
            return future
        self._put(Item(order, self._loop.time() + self._deadline_s, future))
        return future

    def _put(self, item: Item) -> None:
        self._queue.append(item)
        self._serve_soon()

    def _serve_soon(self) -> None:
        if self._pump is None:
            self._pump = asyncio.ensure_future(self._pumping())

    async def _pumping(self) -> None:
        """Take what is there, as often as there is something; never wait for more (P16)."""
        try:
            while self._queue:
                batch, self._queue = self._queue[:BATCH_MAX], self._queue[BATCH_MAX:]
                try:
                    await self._serve(batch)
                except Exception as error:  # noqa: BLE001  # nobody may wait for ever
                    await self._fail(batch, f"the ledger cannot be read: {error!r}")
        finally:
            self._pump = None

    async def _serve(self, batch: list[Item]) -> None:
        if self._down is not None:
            await self._refuse(batch, self._down)
            return
        try:
            refused = await self._run(batch)
        except Unreachable as error:
            await self._fail(batch, f"{error}")
            return
        if refused:
            await self._fail([], refused)

    async def _run(self, batch: list[Item]) -> str:
        """Run a batch and answer it; the result is why Redis would not do some of it.

        Raises:
            Unreachable: nothing is answered yet.
        """
        sent, orders = [], []
        now_ms = self._clock.now_ms()
        for item in batch:
            try:
                self._check_clock(item.order)
                name, fields = self._writer.fields(item.order, now_ms, self._shift_ms)
            except (StoreError, ValueError) as error:
                item.fail(StoreError(f"{error}"))
                continue
            sent.append(item)
            orders.append((name, wire.packed(self._hand(), self._epoch, *fields)))
            if isinstance(item.order, Reserve):
                self._owed.mine.add(item.order.reservation_id)
                self._running.asked(item.order)
        if not sent:
            return ""
        refused, again, asked_s = "", [], monotonic_s()
        answers = await self._link.run(orders, sent[0].until_s)
        for item, answer in zip(sent, answers, strict=True):
            if isinstance(answer, Refused):
                refused = answer.detail
                await self._refuse([item], refused)
                continue
            reply = wire.reply_of(answer)
            self._shift_ms = reply.now_ms - now_ms
            if reply.kind == "epoch":
                refused = LOST
                await self._refuse([item], refused)
            elif reply.kind == "window":
                again.append(item)
            else:
                try:
                    self._take(item, reply, asked_s)
                except StoreError as error:
                    item.fail(error)
        if again:  # a window ended under way, or the clocks have not been compared yet
            return await self._run(again) or refused
        return refused

    def _hand(self) -> int | None:
        return None if self._store_clock is None else self._store_clock.now_ms()

    def _check_clock(self, order: Order) -> None:
        apart_ms = abs(self._shift_ms)
        if apart_ms > APART_MS and isinstance(order, Reserve | Again):
            raise StoreError(
                f"the clock of {self._place!r} and this machine's are {apart_ms // 1_000} s apart:"
                " one of them is wrong"
            )

    def _take(self, item: Item, reply: Reply, asked_s: float) -> None:
        """Take an answer: first what everybody sees, then who waits."""
        for key in self._view.take(reply):
            balance = self._view.board.balance(key, reply.now_ms)
            self._news.look_at(key, balance, reply.now_ms)
        order = item.order
        result: Answer = None
        if isinstance(order, Reserve):
            if reply.kind == "held":
                self._memory.held(order, reply.position, self._loop.time())
            elif reply.kind != "same":
                self._owed.mine.discard(order.reservation_id)
                self._running.refused(order.reservation_id)
            result = wire.answer_of(order, reply, self._view.board.standing(reply.now_ms))
        elif isinstance(order, Settle):
            self._memory.settled(order, self._loop.time())
            self._running.settled(order)
            self._owed.paid(order)
            self._owed.mine.discard(order.reservation_id)
        elif isinstance(order, Again):
            self._allowance.said(order)
            self._memory.again(order, self._loop.time())
        elif isinstance(order, Fold):
            result = folded_of(reply)
            self._memory.folded(order, result.granted, self._loop.time())
        elif isinstance(order, Find):
            result = wire.kept_of(order.reservation_id, reply.notes)
        elif isinstance(order, Look):
            self._news.told(reply.news)
            if reply.shared is not None and order.lease_ms:
                self.shared.take(reply.shared, asked_s)
            result = reply.position == 1
        elif isinstance(order, Write):
            self._news.written(order)
        elif isinstance(order, Free):
            self._running.freed(order)
        elif isinstance(order, Read):
            result = page_of(self._epoch, reply)
        elif isinstance(order, Report) and order.day:
            result = reply.position == 1
        else:
            result = reply.notes
        item.answer(result)

    # ------------------------------------------------------------------ when Redis is not there

    async def _fail(self, batch: list[Item], detail: str) -> None:
        """Close the store to what comes; what waits is told now."""
        self._down = detail
        await self._link.close()
        self._say(detail)
        waiting, self._queue = self._queue, []
        await self._refuse(batch + waiting, detail)

    async def _refuse(self, batch: Sequence[Item], detail: str) -> None:
        """Answer that it cannot be done; but settlements are kept, and done with a journal.

        One that costs nothing is done without: lost with the process, it is booked in full.
        """
        settles = [item.order for item in batch if isinstance(item.order, Settle)]
        why = await self._owed.keep(settles) if settles else ""
        for item in batch:
            order = item.order
            if isinstance(order, Write):
                self._news.give_back(order)
            granted = self._alone(order)
            if granted is not None:
                item.answer(granted)
            elif isinstance(order, Settle) and not (why and order.charged_nanos):
                item.answer(None)
            else:
                item.fail(StoreError(f"{detail}; {why}" if why else detail))

    def _alone(self, order: Order) -> Reserved | None:
        """Reserve without Redis what is free, in this server's share of what was left (S8)."""
        if not isinstance(order, Reserve) or abs(self._shift_ms) > APART_MS:
            return None
        now_ms = self._clock.now_ms() + self._shift_ms
        granted = self._allowance.grant(order, self.shared.owners, now_ms)
        if granted is not None:
            self._owed.mine.add(order.reservation_id)
            self._running.asked(order)
        return granted

    def _say(self, detail: str) -> None:
        """Tell why nothing is admitted, or nothing: that it is mended; each once."""
        if detail != self._told:
            self._told = detail
            self._tell(f"{detail}; nothing is admitted but free models" if detail else "")

    async def _watching(self) -> None:
        """Look, again and again; come back when Redis does, without a restart (S8)."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if self._down is None:
                    with contextlib.suppress(StoreError):
                        if self._news:
                            await self._submit(self._news.take())
                        if self._running:
                            await self._submit(self._running.take())
                        await self._submit(Look())
                else:
                    await self._come_back()
            except Exception as error:  # noqa: BLE001  # it must never cease to look
                self._down = f"{error}" or type(error).__name__
                if not isinstance(error, Unreachable):  # it is there, and will not do
                    self._say(self._down)

    async def _come_back(self) -> None:
        """Connect again, book what is owed, look at what others did, and only then admit."""
        if not self._link.is_up:
            await self._link.connect()
        if self._link.identity != self._identity:
            await self._remind()
        for _ in range(0, len(self._owed), BATCH_MAX):
            await self._pay()
        await self._say_again([*self._allowance.unsaid(), Look()])
        self._allowance.end()
        self._down = None  # what came meanwhile goes before all that comes from here on
        until_s = self._loop.time() + self._deadline_s
        late: list[Order] = [*self._allowance.unsaid(), *self._owed.first(BATCH_MAX)]
        self._queue[:0] = [Item(each, until_s, None) for each in late]
        self._serve_soon()
        self._say("")

    async def _pay(self) -> None:
        """Say what was held here meanwhile, then what it used."""
        await self._say_again(self._allowance.unsaid())
        owed, is_unsaid = self._owed.first(BATCH_MAX), self._allowance.is_unsaid
        await self._say_again([each for each in owed if not is_unsaid(each.reservation_id)])

    async def _remind(self) -> None:
        """Say again what another server may not have heard of (S10)."""
        orders, kept, self._memory = self._memory.all(), self._memory, Memory()
        try:
            await self._say_again(orders)
        finally:
            self._memory = kept
        page = await self._ask(Read(0, 0))
        assert isinstance(page, Page), "that is the answer to it"
        self._news.seen = min(self._news.seen, page.newest)
        self._identity = self._link.identity

    async def _say_again(self, orders: Sequence[Order]) -> None:
        for begin in range(0, len(orders), BATCH_MAX):
            until_s = self._loop.time() + self._deadline_s
            some = orders[begin : begin + BATCH_MAX]
            refused = await self._run([Item(order, until_s, None) for order in some])
            if refused:
                await self._link.close()
                raise StoreError(refused)

    # ---------------------------------------------------------------------- begin and end

    async def _begin(self) -> None:
        """Become an owner of the ledger, and bring it up to date."""
        counters: list[wire.Field] = [
            (counter.key, counter.unit.value, counter.period.value) for counter in self._counters
        ]
        order = wire.packed(self._hand(), None, counters, LEASE_MS, self.secret)
        now_ms = self._clock.now_ms()
        [answer] = await self._link.run([("open", order)], self._loop.time() + self._deadline_s)
        if isinstance(answer, Refused):
            raise StoreError(answer.detail)
        reply = wire.reply_of(answer)
        if reply.kind == "key":
            raise wire.key_trouble(reply.notes)
        self._epoch, self._writer.owner, new, schema, number, self.secret = reply.notes
        self._news.seen = int(number)
        if schema != SCHEMA:
            raise StoreError(
                f"{self._place!r} has schema {schema}, written by another version; this one knows"
                f" {SCHEMA}"
            )
        self._identity = self._link.identity
        self.is_new, self._shift_ms = new == "new", reply.now_ms - now_ms
        while self._owed:
            await self._pay()
        while await self._ask(Look()):
            pass

    async def _ask(self, order: Order) -> Answer:
        """Run one order past the queue, which is empty or not there yet."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        until_s = self._loop.time() + self._deadline_s
        try:
            refused = await self._run([Item(order, until_s, future)])
        except Unreachable as error:
            raise StoreError(f"{error}") from error
        if refused:
            future.cancel()
            raise StoreError(refused)
        return await future

    async def _let_go(self) -> None:
        await self._link.close()
        self._owed.close()
