"""Folds of leases, as the script of Redis reads them and answers (``lua/fold.lua``)."""

from collections.abc import Callable

from escalade_server.core import ledger
from escalade_server.core.catalog import Counter
from escalade_server.core.ledger import Amounts
from escalade_server.stores import redis_wire as wire
from escalade_server.stores.leasing import Ending, Fold, Folded
from escalade_server.stores.redis_usage import sums_of
from escalade_server.stores.redis_wire import Field, Reply


def fold_fields(
    order: Fold, owner: str, window: Callable[[Counter], tuple[Field, ...]]
) -> tuple[Field, ...]:
    """Write a fold.

    Raises:
        ValueError: an amount is out of range.
    """
    counters = [
        (*window(counter), ledger.FIELD[counter.unit] + 1, counter.limit)
        for counter in order.counters
    ]
    return (
        owner, wire.name_of(order.lease), order.seq, counters, order.used, order.keep.checked(),
        order.wish.want, order.wish.most, order.granted, order.is_lost, sums_of(order.sums),
    )  # fmt: skip


def folded_of(reply: Reply) -> Folded:
    """Read the answer.

    Raises:
        StoreError: a counter's key was used for something else.
    """
    if reply.kind != "ok":
        raise wire.key_trouble(reply.notes)
    numbers, endings = reply.notes[:5], reply.notes[5:]
    requests, tokens, nanos, admits_ms, replicas = (int(number) for number in numbers)
    granted = Amounts(requests, tokens, nanos) if reply.position == 1 else None
    parts = zip(endings[::3], endings[1::3], endings[2::3], strict=True)
    windows = [Ending(name, int(column) - 1, int(in_ms)) for name, column, in_ms in parts]
    return Folded(granted, admits_ms, replicas, tuple(windows))
