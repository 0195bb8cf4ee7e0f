"""Leased chunks: the arithmetic holds whatever is lost, said twice, or dies (quotas C10)."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from escalade_server.core.leases import (
    DEMAND_MS,
    TTL_MS,
    Demand,
    Lease,
    Room,
    Wish,
    grant,
    wish,
)
from escalade_server.core.ledger import NOTHING, Amounts

COLUMNS = (0, 2)
amounts = st.builds(Amounts, st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))


def one(units: int) -> Amounts:
    return Amounts(units, 0, 10 * units)


@given(
    st.lists(st.builds(Room, st.integers(0, 2), st.integers(0, 900), st.integers(-50, 900))),
    st.integers(1, 9),
    amounts,
    amounts,
)
def test_a_grant_fits_into_every_counter(
    rooms: list[Room], replicas: int, want: Amounts, most: Amounts
) -> None:
    given_ = grant(rooms, replicas, Wish(want, most))
    if given_ is None:
        assert any(
            not r.limit or r.free < 0 or r.free < 2 * replicas * most[r.column] for r in rooms
        )
        return
    for column, limit, free in rooms:
        assert limit
        assert given_[column] <= max(want[column], 0)
        assert given_[column] <= max(free // (4 * replicas), most[column]) <= max(free, 0)


def test_a_chunk_is_a_small_part_of_what_is_left_and_never_less_than_one_call() -> None:
    def asked(free: int, want: int, most: int, replicas: int = 8) -> int | None:
        found = grant([Room(0, 10**6, free)], replicas, Wish(Amounts(want, 0, 0), one(most)))
        return None if found is None else found.requests

    assert asked(100_000, 10**6, 1) == 100_000 // 32
    assert asked(100_000, 40, 1) == 40
    assert asked(100_000, 0, 1) == 0
    assert asked(160, 10**6, 10) == 10  # 160 // 32 is less than one call
    assert asked(159, 10**6, 10) is None  # below 2 * replicas * the largest call
    assert grant([Room(0, 0, 0)], 1, Wish(NOTHING, NOTHING)) is None


def test_demand_is_that_of_the_last_five_seconds() -> None:
    demand = Demand()
    for second in range(8):
        demand.add(one(second), 1_000 * second)
        demand.add(one(1), 1_000 * second + 999)

    assert DEMAND_MS == 5_000
    assert demand.recent(7_999) == (one(3 + 4 + 5 + 6 + 7 + 5), one(7))
    assert demand.recent(60_000) == (NOTHING, NOTHING)
    demand.add(one(9), 2_000)  # a clock that goes back begins anew
    assert demand.recent(2_000) == (one(9), one(9))


def test_what_is_left_is_not_asked_for_again() -> None:
    lease, demand = Lease(COLUMNS), Demand()
    demand.add(one(5), 0)
    assert wish(lease, demand, 0) == Wish(one(5), one(5))
    lease.fold(keeps_rest=True)
    lease.folded(one(3), TTL_MS)
    assert wish(lease, demand, 0).want == one(2)
    assert lease.admits(one(3), 0)
    assert not lease.admits(one(4), 0)
    assert not lease.admits(one(1), TTL_MS)


@dataclass
class Record:
    """What the store keeps of one lease."""

    seq: int = 0
    held: Amounts = NOTHING
    granted: Amounts | None = None
    assumed: Amounts = NOTHING


@dataclass
class Books:
    """A store, as simple as can be: two counters, of calls and of nanos."""

    limits: tuple[int, int] = (40, 350)
    leases: dict[int, Record] = field(default_factory=dict)
    spent: Amounts = NOTHING

    def held(self, column: int) -> int:
        return sum(record.held[column] for record in self.leases.values())

    def fold(self, lease: int, sent: "Sent") -> Amounts | None:
        record = self.leases.setdefault(lease, Record())
        if sent.seq <= record.seq:
            return record.granted
        self.spent = _plus(self.spent, sent.used.minus(record.assumed))
        record.seq, record.held, record.assumed = sent.seq, sent.keep, NOTHING
        rooms = [
            Room(c, limit, limit - self.spent[c] - self.held(c))
            for c, limit in zip(COLUMNS, self.limits, strict=True)
        ]
        record.granted = grant(rooms, 3, sent.wish) if any(sent.wish.most) else NOTHING
        record.held = _plus(record.held, record.granted or NOTHING)
        return record.granted

    def bury(self, lease: int) -> None:
        record = self.leases.get(lease, Record())
        self.spent = _plus(self.spent, record.held)
        record.assumed, record.held = _plus(record.assumed, record.held), NOTHING


def _plus(one_: Amounts, other: Amounts) -> Amounts:
    return Amounts(*[a + b for a, b in zip(one_, other, strict=True)])


@dataclass
class Sent:
    """A fold on its way."""

    seq: int
    used: Amounts
    keep: Amounts
    wish: Wish


@dataclass
class Holder:
    """A process with its lease, and what really happened in it."""

    lease: Lease = field(default_factory=lambda: Lease(COLUMNS))
    demand: Demand = field(default_factory=Demand)
    open: list[Amounts] = field(default_factory=list)
    used: Amounts = NOTHING
    sent: Sent | None = None


class LeaseMachine(RuleBasedStateMachine):
    """Three processes over one store: answers are lost, processes die, journals come back."""

    which = st.integers(0, 2)

    @initialize()
    def begin(self) -> None:
        self.books = Books()
        self.holders = [Holder() for _ in range(3)]
        self.now_ms = 0

    @rule(which=which, units=st.integers(1, 4))
    def call(self, which: int, units: int) -> None:
        holder = self.holders[which]
        holder.demand.add(one(units), self.now_ms)
        if holder.lease.admits(one(units), self.now_ms):
            holder.lease.hold(one(units))
            holder.open.append(one(units))

    @rule(which=which, part=st.integers(0, 10))
    def settle(self, which: int, part: int) -> None:
        holder = self.holders[which]
        if holder.open:
            reserved = holder.open.pop(0)
            used = Amounts(reserved.requests, 0, reserved.nanos * part // 10)
            holder.lease.settle(reserved, used)
            holder.used = _plus(holder.used, used)

    @rule(which=which, keeps_rest=st.booleans())
    def send(self, which: int, keeps_rest: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        holder = self.holders[which]
        if holder.sent is None:
            wanted = wish(holder.lease, holder.demand, self.now_ms)
            seq, used, keep = holder.lease.fold(keeps_rest=keeps_rest)
            holder.sent = Sent(seq, used, keep, wanted if keeps_rest else Wish(NOTHING, NOTHING))

    @rule(which=which, is_heard=st.booleans())
    def arrive(self, which: int, is_heard: bool) -> None:  # noqa: FBT001
        """The fold arrives, perhaps again; its answer perhaps is lost."""
        holder = self.holders[which]
        if holder.sent is not None:
            granted = self.books.fold(which, holder.sent)
            if is_heard:
                holder.lease.folded(granted, self.now_ms + TTL_MS)
                holder.sent = None

    @rule(which=which)
    def die(self, which: int) -> None:
        """A process dies; its lease is booked in full, and what ran is told by its journal."""
        holder = self.holders[which]
        self.books.bury(which)
        for reserved in holder.open:
            holder.lease.settle(reserved, reserved)
            holder.used = _plus(holder.used, reserved)
        holder.open.clear()
        holder.lease.admits_to_ms = 0

    @rule(pass_ms=st.sampled_from([10, 1_000, TTL_MS]))
    def time_passes(self, pass_ms: int) -> None:
        self.now_ms += pass_ms

    @invariant()
    def nothing_is_overspent(self) -> None:
        for column, limit in zip(COLUMNS, self.books.limits, strict=True):
            assert self.books.spent[column] + self.books.held(column) <= limit
            really = sum(h.used[column] + sum(o[column] for o in h.open) for h in self.holders)
            assert really <= self.books.spent[column] + self.books.held(column)

    def teardown(self) -> None:
        """In the end all is told, and the books agree with what happened."""
        for which, holder in enumerate(self.holders):
            for keeps_rest in (True, False):
                self.send(which, keeps_rest)
                self.arrive(which, is_heard=True)
            assert self.books.leases[which].held == holder.lease.held
            assert [holder.lease.open[c] for c in COLUMNS] == [
                sum(reserved[c] for reserved in holder.open) for c in COLUMNS
            ]
        for column in COLUMNS:
            assert self.books.spent[column] == sum(h.used[column] for h in self.holders)


LeaseMachine.TestCase.settings = settings(stateful_step_count=40, deadline=None)
TestLeases = LeaseMachine.TestCase
