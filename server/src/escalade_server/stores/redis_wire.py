"""What is said to the scripts of the Redis store, and what they answer: MessagePack both ways.

One argument and one answer a script: an order with 24 candidates is one string, not 300. The
scripts count and compare; what a denial is, or a repeated request, is computed here from what they
saw, by the same functions as for every other store.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from escalade_server.core import ledger
from escalade_server.core.catalog import Billing, Counter
from escalade_server.core.commands import Reserve, SetBench, Settle
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.ledger import Amounts
from escalade_server.core.standing import Balance, Denial, Standing
from escalade_server.core.task import Basis
from escalade_server.core.window import SLICES, SPAN_MS, Window, total
from escalade_server.engine.ports import Booking, Kept, StoreError
from escalade_server.stores import claims
from escalade_server.stores.redis_usage import tally_of, told_of, use_of

Field = str | int | bool | Sequence["Field"] | None
"""What goes over the wire."""

_STATES = {
    "0": Booking.OPEN, "1": Booking.OPEN, "2": Booking.ASSUMED, "3": Booking.SETTLED,
}  # fmt: skip


class Part(NamedTuple):
    """One window, or slice, of a counter."""

    starts_ms: int
    ends_ms: int
    label: str
    spent: int
    held: int

    @property
    def balance(self) -> Balance:
        """The same as everybody else knows it."""
        return Balance(self.label, self.spent, self.held, self.ends_ms)


class Seen(NamedTuple):
    """A counter as a script met it, before it changed anything."""

    name: str
    parts: list[Part]


class Changed(NamedTuple):
    """What a window holds now."""

    name: str
    starts_ms: int
    spent: int
    held: int


class Aside(NamedTuple):
    """A cooldown."""

    key: str
    until_ms: int
    cls: str
    detail: str


class NewsRow(NamedTuple):
    """An entry of the feed."""

    number: int
    at_ms: int
    kind: str
    agent: str
    request_id: str
    trace_id: str
    text: str


class TokenRow(NamedTuple):
    """A bearer token; -1 is never."""

    key_id: str
    agent: str
    rank: str
    digest: str
    created_ms: int
    expires_ms: int
    revoked_ms: int


class Shared(NamedTuple):
    """What servers know of each other: how many live, and which duties the asking one has.

    ``tokens`` is the version of all tokens; they are told if it is another than the known one.
    """

    owners: int
    duties: list[str]
    tokens: str
    rows: list[TokenRow]


class Reply(NamedTuple):
    """The answer of every script; ``version`` grows with each change of the ledger."""

    kind: str
    version: int
    now_ms: int
    position: int
    seen: list[Seen]
    changed: list[Changed]
    notes: list[str]
    benches: list[Aside]
    news: list[NewsRow]
    shared: Shared | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reply, strict=False).decode  # counts come as text, to be exact


def reply_of(answer: bytes) -> Reply:
    """Read the answer of a script.

    Raises:
        StoreError: it is none of ours.
    """
    try:
        return _decode(answer)
    except msgspec.MsgspecError as error:
        raise StoreError(f"Redis gave an answer that is none of ours: {error}") from error


def packed(*fields: Field) -> bytes:
    """Write an order."""
    return _encode(fields)


def name_of(text: str) -> str:
    """Answer what stands in a key for something that callers may have chosen (D13)."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def claim_of(agent: str, request_id: str) -> str:
    """Answer what stands in a key for the request id of an agent."""
    return name_of(f"{len(agent)}:{agent}{request_id}")


def counter_of(
    counter: Counter, calendar: Callable[[Counter, int], Window], now_ms: int
) -> tuple[Field, ...]:
    """Write a counter, with the window that admissions go to now.

    The script makes slices itself: they need no calendar.
    """
    width = SPAN_MS.get(counter.period, 0) // SLICES
    label, starts_ms, ends_ms = (counter.period.value, 0, 0) if width else calendar(counter, now_ms)
    return (
        counter.key, counter.unit.value, counter.period.value, width, starts_ms, ends_ms, label,
    )  # fmt: skip


def reserve_fields(
    order: Reserve,
    owner: str,
    day: str,
    window: Callable[[Counter], tuple[Field, ...]],
    *,
    runs: bool = True,
    is_forced: bool = False,
) -> tuple[Field, ...]:
    """Write a reservation; each counter stands in it once.

    With ``is_forced`` the first candidate is taken, whether there is room or not. ``runs`` refuses
    its request id to other servers until it is freed.

    Raises:
        ValueError: a bound is out of range.
    """
    index: dict[str, int] = {}
    counters: list[Field] = []
    candidates: list[Field] = []
    for candidate in order.candidates:
        touched: list[Field] = []
        for counter in candidate.counters:
            at = index.get(counter.key)
            if at is None:
                counters.append(window(counter))
                at = index[counter.key] = len(counters)
            touched.append((at, ledger.FIELD[counter.unit] + 1, counter.limit))
        model = candidate.model
        amounts = tuple(ledger.bounds(candidate).checked())
        use = use_of(model, order.agent, order.task_type)
        metered = "1" if model.billing is Billing.METERED else "0"
        candidates.append((model.position, model.key, amounts, touched, use, metered))
    claim = claim_of(order.agent, order.request_id) if order.request_id else ""
    return (
        owner, name_of(order.reservation_id), order.agent, "1" if order.routed else "0", claim,
        order.content, counters, candidates, is_forced, day, runs,
    )  # fmt: skip


def settle_fields(order: Settle) -> tuple[Field, ...]:
    """Write a settlement.

    Raises:
        ValueError: an amount is out of range.
    """
    used = Amounts(order.requests, order.tokens, order.nanos)
    if order.hold_until_ms is None:
        used.checked()
    return (
        name_of(order.reservation_id), tuple(used), order.basis is Basis.RESERVED,
        order.hold_until_ms or 0, order.digest, claims.text_of(order.figures), told_of(order),
        tally_of(order.tally),
    )  # fmt: skip


def bench_fields(order: SetBench) -> tuple[Field, ...]:
    """Write a cooldown; its end may lie beyond what a script can count exactly."""
    bench = order.bench
    return ((order.key, str(bench.until_ms), bench.cls.value, bench.detail),)


def denials_of(order: Reserve, reply: Reply) -> tuple[Denial, ...]:
    """Say of each candidate that was passed over why, one by one (P20)."""
    if not reply.seen:
        return ()
    balances = {
        seen.name: total([part.balance for part in seen.parts], reply.now_ms)
        or seen.parts[-1].balance
        for seen in reply.seen
    }
    found = []
    for candidate in order.candidates:
        if candidate.model.position == reply.position:
            break
        if not all(each.key in balances for each in candidate.counters):
            continue  # the same id with other candidates than before
        denial = ledger.denial(candidate, [balances[each.key] for each in candidate.counters])
        assert denial is not None or reply.kind == "same", "the script and the core add up alike"
        if denial is not None:
            found.append(denial)
    return tuple(found)


@dataclass(slots=True)
class _Answered:
    """The one attempt under a request id that answered it."""

    model: str
    content: str
    admitted_ms: int
    figures: str


def repeated_of(order: Reserve, reply: Reply) -> Repeated:
    """Say that a request id may not be run, and why (R27)."""
    if not reply.notes:
        return Repeated(order.attempt)
    model, figures, admitted = reply.notes
    answered = _Answered(model, order.content, int(admitted), figures)
    repeated = claims.repeated([answered], order, reply.now_ms)
    assert repeated is not None, "the script counts the same day"
    return repeated


def answer_of(
    order: Reserve, reply: Reply, standing: Standing
) -> Reserved | ReservationDenied | Repeated:
    """Read the answer to a reservation.

    Raises:
        StoreError: it cannot be served.
    """
    match reply.kind:
        case "held" | "same":
            return Reserved(order.attempt, reply.position, denials_of(order, reply))
        case "denied":
            return ReservationDenied(order.attempt, denials_of(order, reply), standing)
        case "repeated":
            return repeated_of(order, reply)
        case "busy":
            return Repeated(order.attempt, runs=True)
        case _:
            raise key_trouble(reply.notes)


def kept_of(reservation_id: str, notes: list[str]) -> Kept | None:
    """Read what a store remembers of a reservation."""
    if not notes:
        return None
    model, agent, routed, state, digest, *numbers = notes
    return Kept(
        reservation_id, model, agent, routed == "1", _STATES[state], digest,
        *[int(number) for number in numbers],
    )  # fmt: skip


def key_trouble(notes: list[str]) -> StoreError:
    """Say that a counter's key was used for something else."""
    name, unit, period = notes
    return StoreError(
        f"{name}: kept so far as {unit} per {period}; a changed limit needs a new key"
    )
