"""How the facts are made that every task makes anew: frozen for mypy, and quick at run time.

A frozen dataclass takes three times as long to make (pitfalls, Core), a NamedTuple half as long
again, and twenty times as long to read a field of. What is made once, at the start, is frozen.
"""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Make a slotted dataclass whose fields nobody may set: mypy sees to that."""
    return dataclass(slots=True)(cls)
