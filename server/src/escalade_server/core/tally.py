"""What one task adds to the daily counts, beside what its attempts are booked with (R15).

It rides in the settlement of the attempt that answers, so that counts and money become durable
together; a task without an answer hands it over with its ending.
"""

from collections.abc import Iterable, Sequence

from escalade_server.core.catalog import Model
from escalade_server.core.facts import Escalated
from escalade_server.core.money import cost_nanos
from escalade_server.core.record import record
from escalade_server.core.session import Session
from escalade_server.core.task import Usage


@record
class Tally:
    """One task, counted once. ``layer`` and ``model`` (its key) answered; empty: none did."""

    agent: str
    task_type: str
    layer: str = ""
    model: str = ""
    fallbacks: int = 0
    waited_ms: int = 0
    waits: int = 0
    """1 for a task that was told to wait, however often."""
    escalations: tuple[tuple[str, str, str], ...] = ()
    """From, to, and the reason's word; one for each change of layer (R20)."""
    baselines: tuple[tuple[str, int], ...] = ()
    """What its answer would have cost on single models, in nanos of list value (R15)."""
    session_key: str = ""
    session: Session | None = None
    """What is to be kept of its session from now on, under that key (R29)."""


def changes(escalations: Sequence[Escalated]) -> tuple[tuple[str, str, str], ...]:
    """Write changes of layer as they are counted."""
    if not escalations:
        return ()
    return tuple([(e.from_layer, e.to_layer, e.reason.value) for e in escalations])


def compared(usage: Usage, models: Iterable[Model]) -> tuple[tuple[str, int], ...]:
    """Answer what an answer's usage would have cost on each of these models alone."""
    return tuple([(f"{m.provider}/{m.id}", cost_nanos(usage, m.price)) for m in models])
