"""Reports that come outside a task's stream: its books are corrected, once, for a day (R32)."""

from dataclasses import replace
from typing import NamedTuple, Protocol

from escalade_server.core import settlement
from escalade_server.core.answer import Fold
from escalade_server.core.attempt import Live
from escalade_server.core.calling import reported
from escalade_server.core.catalog import Catalog, Model
from escalade_server.core.commands import Candidate
from escalade_server.core.events import OutcomeReported
from escalade_server.core.failure import DAY_MS
from escalade_server.core.trace import AttemptRecord, AttemptStatus, figures
from escalade_server.engine.ports import (
    Booking,
    Classifier,
    Clock,
    Kept,
    RawEvidence,
    Store,
)

REPORTABLE_MS = DAY_MS
"""How long after its admission an attempt may still be reported on."""


class ReservationUnknownError(Exception):
    """There is no such reservation for this caller: never was, another's, or too old."""


class OutcomeConflictError(Exception):
    """The attempt was reported on before, and otherwise."""


class Booked(NamedTuple):
    """An attempt as it is booked now; ``corrected``: an earlier booking was by this report."""

    record: AttemptRecord
    corrected: bool


class Shelf(Protocol):
    """What a late report needs of the engine."""

    catalog: Catalog
    clock: Clock
    store: Store
    classifier: Classifier


async def correct(
    shell: Shelf,
    reservation_id: str,
    outcome: OutcomeReported,
    agent: str,
    evidence: RawEvidence | None,
) -> Booked:
    """Book a report, unless it is booked already; the task itself is steered no more.

    Raises:
        ReservationUnknownError: the caller has no such reservation to report on.
        OutcomeConflictError: another report was booked before.
        StoreError: the books cannot be reached; try again.
    """
    now_ms = shell.clock.now_ms()
    kept = await shell.store.find(reservation_id)
    model = _model_of(kept, agent, shell.catalog, now_ms)
    if kept is None or model is None:
        raise ReservationUnknownError
    if evidence is not None:
        failure = shell.classifier.classify(model, evidence, now_ms)
        outcome = outcome._replace(failure=failure)
    live = Live(
        outcome.attempt, Candidate(model, kept.reserved_tokens, kept.reserved_nanos, 0),
        reservation_id, kept.admitted_ms, 0, 0, Fold(keep=False),
    )  # fmt: skip
    over = reported(live, outcome, now_ms)
    booking, status = settlement.late(over)
    corrects = not kept.digest and kept.state is not Booking.SETTLED
    record = booking.record(live, status, now_ms, over.failure)
    if corrects:
        order = booking.order(live, now_ms)
        if status is AttemptStatus.OK:  # so its request id has been answered, after all (R27)
            order = replace(order, figures=figures([record], kept.admitted_ms, now_ms))
        await shell.store.settle(order, now_ms)
        kept = await shell.store.find(reservation_id) or kept
    if kept.digest != outcome.digest:
        raise OutcomeConflictError
    if not corrects:
        nanos = kept.reserved_nanos if kept.state is Booking.OPEN else kept.nanos
        charged = replace(booking, nanos=nanos).charged_nanos(model)
        record = replace(record, list_nanos=nanos, charged_nanos=charged)
    return Booked(record, corrects)


def _model_of(kept: Kept | None, agent: str, catalog: Catalog, now_ms: int) -> Model | None:
    """Find the model, if this caller may report on the reservation."""
    if kept is None or not kept.routed or kept.agent != agent:
        return None
    if now_ms - kept.admitted_ms > REPORTABLE_MS:
        return None
    return next((model for model in catalog.models if model.key == kept.model_key), None)
