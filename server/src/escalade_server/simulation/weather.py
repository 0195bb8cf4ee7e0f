"""How a simulated store is: quick, slow, refusing, or losing its answers, by turns."""

import zlib
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from escalade_server.core.commands import Reserve, SetBench, Settle
from escalade_server.simulation.script import Fault, Now, Service

FLAKY_PERCENT = 40
_MASK = (1 << 62) - 1


class Trouble(Enum):
    """What is the matter with a store."""

    SLOW = "slow"
    DOWN = "down"
    FLAKY = "flaky"
    """Some orders fail, some of them though they are done."""


class Spell(NamedTuple):
    """A store has a trouble from one instant of the run to another."""

    from_us: int
    to_us: int
    trouble: Trouble


class StoreWeather:
    """``Weather`` of a seed."""

    def __init__(self, seed: int, spells: Sequence[Spell] = ()) -> None:
        """Say what is drawn from, and when it is bad."""
        self._seed, self._spells = seed, spells

    def service(self, order: Reserve | Settle | SetBench, now: Now) -> Service:
        """Say how an order is served."""
        trouble = self._trouble(now.us)
        # One hash of integers is the same everywhere, and cheaper than a generator for each order.
        drawn = hash((self._seed, *_numbers(order, now))) & _MASK
        before, after = 200 + drawn % 1_600, 50 + (drawn >> 12) % 450
        if trouble is Trouble.SLOW:
            return Service(before + (drawn >> 20) % 3_000_000, after + (drawn >> 32) % 3_000_000)
        if trouble is Trouble.DOWN:
            return Service(before, after, Fault.REFUSED)
        if trouble is Trouble.FLAKY and (drawn >> 24) % 100 < FLAKY_PERCENT:
            return Service(before, after, Fault.LOST if (drawn >> 40) % 2 else Fault.REFUSED)
        return Service(before, after)

    def is_down(self, now: Now) -> bool:
        """Tell whether nothing can be done at all."""
        return self._trouble(now.us) is Trouble.DOWN

    def _trouble(self, now_us: int) -> Trouble | None:
        for spell in self._spells:
            if spell.from_us <= now_us < spell.to_us:
                return spell.trouble
        return None


def _numbers(order: Reserve | Settle | SetBench, now: Now) -> tuple[int, ...]:
    """Name an order by numbers."""
    if isinstance(order, SetBench):
        return (2, zlib.crc32(order.key.encode()), now.us)
    task_id, _, serial = order.reservation_id.partition(".")
    return (int(isinstance(order, Settle)), int(task_id, 16), int(serial))
