"""The leases of one process with the calls inside them, as its journal tells them again.

Every change is written before it is made, so that a later process comes to the same state: see
``Chunks.replay``. The arithmetic is ``core.leases``.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from escalade_server.core.catalog import Counter
from escalade_server.core.commands import Settle
from escalade_server.core.leases import TTL_MS, Lease, Wish
from escalade_server.core.ledger import FIELD, NOTHING, Amounts
from escalade_server.core.task import Basis
from escalade_server.stores.lease_journal import Record
from escalade_server.stores.leasing import NO_WISH, Fold, Folded
from escalade_server.stores.rows import State
from escalade_server.stores.usage import Sums

DONE_MAX = 10_000
"""So many ended calls are known by heart, for orders that are said twice."""


@dataclass(slots=True)
class Call:
    """One reservation inside a lease; with what its use is reported under."""

    id: str
    chunk: "Chunk"
    reserved: Amounts
    position: int
    admitted_ms: int
    day: str
    layer: str
    model: str
    agent: str
    task_type: str
    metered: bool
    state: State = State.OPEN
    resolve_at_ms: int = 0
    used: Amounts = NOTHING


@dataclass(slots=True, eq=False)
class Chunk:
    """One lease, and what the store was told and has told of it."""

    id: str
    counters: tuple[Counter, ...]
    lease: Lease
    sums: Sums = field(default_factory=Sums)
    pending: Fold | None = None
    """Sent, and not answered."""
    stored: Amounts = NOTHING
    """What the store held at its last answer."""
    calls: int = 0
    """Open, or in doubt."""
    is_lost: bool = False
    """What it held and is not told of is not known to be free."""
    windows: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By counter, which amount it counts, and when the window ends that this belongs to."""
    folded_s: float = 0.0
    """When the store was last asked, on the clock of the event loop."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left of it."""
        return self.lease.is_empty and not self.calls and self.pending is None


class Chunks:
    """All leases of this process, and those that dead ones left in its hands."""

    def __init__(self, write: Callable[[Record], None]) -> None:
        """Say where records go; it raises ``StoreError`` when they cannot be kept."""
        self._write = write
        self.alive: dict[str, Chunk] = {}
        self.known: dict[str, Call] = {}
        self._done: deque[str] = deque()
        self._unsure: dict[str, Call] = {}
        self.version = 0
        """Grows with every change."""

    def take(self, id_: str, counters: tuple[Counter, ...]) -> Chunk:
        """Begin a lease; nothing is held before its first fold."""
        columns = tuple(sorted({FIELD[counter.unit] for counter in counters}))
        self._write(["L", id_, columns])
        return self._take(id_, counters, columns)

    def hold(self, call: Call) -> None:
        """Admit a call; there must be room for it."""
        self._revive(call.chunk)
        self._write(_held(call))
        self._hold(call)

    def settle(self, call: Call, order: Settle) -> None:
        """Book a call as ``Store.settle`` says.

        Raises:
            ValueError: an amount is out of range.
        """
        if call.state is State.SETTLED:
            return
        if order.hold_until_ms is not None:
            if call.state is not State.ASSUMED:
                self._write(["U", call.id, order.hold_until_ms])
                self._doubt(call, order.hold_until_ms)
            return
        used = Amounts(order.requests, order.tokens, order.nanos).checked()
        is_assumed = order.basis is Basis.RESERVED
        self._book(call, used, State.ASSUMED if is_assumed else State.SETTLED, order)

    def sweep(self, now_ms: int) -> None:
        """Book in full what was in doubt until now."""
        for call in [each for each in self._unsure.values() if each.resolve_at_ms <= now_ms]:
            self._book(call, call.reserved, State.ASSUMED, None)

    def fold(self, chunk: Chunk, wish: Wish = NO_WISH, *, keeps_rest: bool) -> Fold:
        """Begin a fold; it is pending until it is answered."""
        self._revive(chunk)
        self._write(["F", chunk.id, keeps_rest])
        return self._fold(chunk, wish, keeps_rest=keeps_rest)

    def folded(self, chunk: Chunk, answer: Folded, asked_ms: int) -> None:
        """Take the answer to the pending fold."""
        self._write(["A", chunk.id, answer.granted])
        admits_to_ms = asked_ms + min(answer.admits_ms, TTL_MS)
        self._folded(chunk, answer.granted, admits_to_ms)
        chunk.windows = {
            each.counter: (each.column, asked_ms + each.in_ms) for each in answer.endings
        }

    def _revive(self, chunk: Chunk) -> None:
        """Take a lease up again that was over, because something comes after all."""
        if chunk.id not in self.alive:
            self.alive[chunk.id] = chunk
            self._write(_whole(chunk))

    def drop(self, chunk: Chunk) -> None:
        """Forget a lease of which nothing is left."""
        self._write(["E", chunk.id])
        del self.alive[chunk.id]

    def state(self) -> list[Record]:
        """Tell everything in few records."""
        chunks = dict(self.alive)
        calls: list[Record] = []
        for call in self.known.values():
            chunks.setdefault(call.chunk.id, call.chunk)
            if call.state is State.OPEN or call.state is State.UNCERTAIN:
                calls.append(_held(call))
                if call.state is State.UNCERTAIN:
                    calls.append(["U", call.id, call.resolve_at_ms])
            else:
                calls.append(["K", *_held(call)[1:], call.state, call.resolve_at_ms, call.used])
        over = [["E", id_] for id_ in chunks if id_ not in self.alive]
        return [*map(_whole, chunks.values()), *calls, *over]

    # ------------------------------------------------------------------- what a dead process left

    def replay(self, records: Sequence[Record], *, is_whole: bool) -> None:
        """Come to the state that records tell, and give up what ran: it is booked in full."""
        for record in records:
            self._replay(record)
        for chunk in self.alive.values():
            chunk.is_lost = chunk.is_lost or not is_whole
        for call in [each for each in self.known.values() if each.state is State.OPEN]:
            self._book(call, call.reserved, State.ASSUMED, None, write=False)
        if not is_whole:
            self.sweep_all()

    def sweep_all(self) -> None:
        """Book in full everything in doubt."""
        for call in list(self._unsure.values()):
            self._book(call, call.reserved, State.ASSUMED, None, write=False)

    def _replay(self, record: Record) -> None:
        match record:
            case ["L", id_, columns]:
                self._take(id_, (), tuple(columns))
            case ["Z", id_, columns, *rest]:
                self._restore(self._take(id_, (), tuple(columns)), rest)
            case ["H", id_, chunk, reserved, *rest]:
                self._hold(Call(id_, self.alive[chunk], Amounts(*reserved), *rest))
            case ["K", id_, chunk, reserved, *rest, state, due_ms, used]:
                known = Call(id_, self.alive[chunk], Amounts(*reserved), *rest)
                known.state, known.resolve_at_ms = State(state), due_ms
                known.used = Amounts(*used)
                self._know(known)
            case ["U", id_, until_ms]:
                self._doubt(self.known[id_], until_ms)
            case ["S", id_, state, used, sums]:
                self._booked(self.known[id_], Amounts(*used), State(state), _sums(sums))
            case ["C", chunk, difference, id_, state, used, sums]:
                self._correct(chunk, Amounts(*difference), _sums(sums))
                if (call := self.known.get(id_)) is not None:
                    call.used, call.state = Amounts(*used), State(state)
            case ["F", id_, keeps_rest]:
                self._fold(self.alive[id_], NO_WISH, keeps_rest=keeps_rest)
            case ["A", id_, granted]:
                self._folded(self.alive[id_], granted and Amounts(*granted), 0)
            case ["E", id_]:
                del self.alive[id_]

    def _restore(self, chunk: Chunk, record: Record) -> None:
        seq, held, used, sums, sent, chunk.is_lost = record
        lease = chunk.lease
        lease.seq, lease.held, lease.used = seq, Amounts(*held), Amounts(*used)
        chunk.sums, chunk.stored = _sums(sums), lease.held
        if sent:
            told, keep, added = sent
            lease.is_asking = True
            chunk.pending = Fold(chunk.id, seq, (), Amounts(*told), Amounts(*keep), _sums(added))

    # ------------------------------------------------------------------------------- the changes

    def _take(self, id_: str, counters: tuple[Counter, ...], columns: tuple[int, ...]) -> Chunk:
        chunk = self.alive[id_] = Chunk(id_, counters, Lease(columns))
        return chunk

    def _hold(self, call: Call) -> None:
        call.chunk.lease.hold(call.reserved)
        call.chunk.calls += 1
        self.known[call.id] = call
        self.version += 1

    def _doubt(self, call: Call, until_ms: int) -> None:
        call.state, call.resolve_at_ms = State.UNCERTAIN, until_ms
        self._unsure[call.id] = call

    def _book(
        self, call: Call, used: Amounts, state: State, order: Settle | None, *, write: bool = True
    ) -> None:
        sums = Sums()
        sums.book(call, used, order)
        if write:
            chunk = call.chunk
            self._revive(chunk)
            told = [call.id, state, used, _listed(sums)]
            if call.state is State.ASSUMED:
                self._write(["C", chunk.id, used.minus(call.used), *told])
            else:
                self._write(["S", *told])
        self._booked(call, used, state, sums)

    def _booked(self, call: Call, used: Amounts, state: State, sums: Sums) -> None:
        chunk = call.chunk
        if call.state is State.ASSUMED:
            self._correct(chunk.id, used.minus(call.used), sums)
        else:
            chunk.lease.settle(call.reserved, used)
            chunk.sums.plus(sums)
            chunk.calls -= 1
            self._unsure.pop(call.id, None)
        call.used, call.state = used, state
        self._know(call)
        self.version += 1

    def _know(self, call: Call) -> None:
        """Remember a call that has ended, and forget the oldest."""
        self.known[call.id] = call
        self._done.append(call.id)
        while len(self._done) > DONE_MAX:
            old = self.known.get(self._done.popleft())
            if old is not None and old.state in {State.ASSUMED, State.SETTLED}:
                del self.known[old.id]

    def _correct(self, id_: str, difference: Amounts, sums: Sums) -> None:
        chunk = self.alive[id_]
        chunk.lease.correct(difference)
        chunk.sums.plus(sums)
        self.version += 1

    def _fold(self, chunk: Chunk, wish: Wish, *, keeps_rest: bool) -> Fold:
        seq, used, keep = chunk.lease.fold(keeps_rest=keeps_rest)
        sums, chunk.sums = chunk.sums, Sums()
        chunk.pending = Fold(
            chunk.id, seq, chunk.counters, used, keep, sums, wish, is_lost=chunk.is_lost
        )
        self.version += 1
        return chunk.pending

    def _folded(self, chunk: Chunk, granted: Amounts | None, admits_to_ms: int) -> None:
        assert chunk.pending is not None, "nothing was asked"
        chunk.stored = Amounts(
            *[k + g for k, g in zip(chunk.pending.keep, granted or NOTHING, strict=True)]
        )
        chunk.is_lost = chunk.is_lost and not chunk.pending.is_lost
        chunk.pending = None
        chunk.lease.folded(granted, admits_to_ms)
        self.version += 1


def _whole(chunk: Chunk) -> Record:
    """Tell a lease without the calls that are open in it."""
    lease, pending = chunk.lease, chunk.pending
    sent = pending and [pending.used, pending.keep, _listed(pending.sums)]
    return [
        "Z", chunk.id, lease.columns, lease.seq, lease.held, lease.used, _listed(chunk.sums),
        sent, chunk.is_lost,
    ]  # fmt: skip


def _held(call: Call) -> Record:
    return [
        "H", call.id, call.chunk.id, call.reserved, call.position, call.admitted_ms, call.day,
        call.layer, call.model, call.agent, call.task_type, call.metered,
    ]  # fmt: skip


def _listed(sums: Sums) -> Record | None:
    if not sums:
        return None
    return [list(each.items()) for each in (sums.use, sums.changes, sums.baselines)]


def _sums(listed: Record | None) -> Sums:
    sums = Sums()
    if listed:
        use, changes, baselines = listed
        sums.use = {tuple(key): tuple(added) for key, added in use}
        sums.changes = {tuple(key): times for key, times in changes}
        sums.baselines = {tuple(key): nanos for key, nanos in baselines}
    return sums
