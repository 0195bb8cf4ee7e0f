"""Seeded chance: what is drawn depends on the seed and on what it is drawn for, on nothing else."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


def chance(seed: int, *purpose: int) -> Random:
    """Answer a generator of its own for one purpose of one seed."""
    number = seed
    for part in purpose:
        number = number * 1_000_003 + part + 1
    return Random(number)


def pick(rng: Random, some: Sequence[T]) -> T:
    """Draw one of several, each as likely; to make one likelier, name it twice."""
    return some[int(rng.random() * len(some))]


def between(rng: Random, low: int, high: int) -> int:
    """Draw an integer from ``low`` to ``high``."""
    return low + int(rng.random() * (high - low + 1))


def maybe(rng: Random, percent: float) -> bool:
    """Draw a yes in so many percent of cases."""
    return rng.random() * 100 < percent
