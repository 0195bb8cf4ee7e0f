"""Which request ids are taken, by what is kept of their reservations (R27).

Every reservation of a request under its caller's own id names that id, and the one whose attempt
answered has the figures of the task. So an id is claimed with the first reservation and answered
with the settlement that pays for it, each in a transaction that is made anyway.
"""

from collections.abc import Iterable
from typing import Protocol

from escalade_server.core.commands import Reserve
from escalade_server.core.events import Repeated
from escalade_server.core.failure import DAY_MS
from escalade_server.core.task import Usage
from escalade_server.core.trace import Figures

TAKEN_MS = DAY_MS
"""How long an id is taken, from the admission of an attempt on."""


class Claim(Protocol):
    """What is kept of one reservation under a request id; ``figures`` is empty without an answer.

    An attempt that ended without one leaves the id free for the same request: also one that a
    dead process has left open, which is booked in full at the start.
    """

    model: str
    content: str
    admitted_ms: int
    figures: str


def repeated(before: Iterable[Claim], order: Reserve, now_ms: int) -> Repeated | None:
    """Say that a request id may not be run, and why; None: it may."""
    alive = [each for each in before if now_ms - each.admitted_ms < TAKEN_MS]
    if any(each.content != order.content for each in alive):
        return Repeated(order.attempt)
    for each in alive:
        if each.figures:
            return Repeated(order.attempt, each.model, figures_of(each.figures))
    return None


def text_of(figures: Figures | None) -> str:
    """Write figures as they are kept; nothing for none."""
    if figures is None:
        return ""
    used = figures.usage
    numbers = (
        used.input_tokens, used.output_tokens, used.cached_tokens, used.cache_write_tokens,
        used.reasoning_tokens, *figures[1:],
    )  # fmt: skip
    return " ".join([str(number) for number in numbers])


def figures_of(text: str) -> Figures | None:
    """Read what ``text_of`` wrote."""
    if not text:
        return None
    *used, list_nanos, charged_nanos, started_ms, ended_ms = (int(part) for part in text.split())
    return Figures(Usage(*used), list_nanos, charged_nanos, started_ms, ended_ms)
