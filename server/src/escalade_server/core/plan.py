"""The plan of one task: score, start, and what stands for or against each model (R31).

It drives the same walk as a real task and reserves nothing.
"""

from typing import NamedTuple

from escalade_server.core import policy, walk, words
from escalade_server.core.assess import first_look
from escalade_server.core.catalog import Catalog, Layer, Model
from escalade_server.core.experience import Experience
from escalade_server.core.facts import EscalationReason
from escalade_server.core.standing import Standing, Verdict, VerdictClass
from escalade_server.core.task import MICRO, Request
from escalade_server.core.trace import Assessment


class Row(NamedTuple):
    """One model in the order of the walk, with its own verdict."""

    model: Model
    verdict: Verdict
    list_nanos: int
    """The most that one call within the bounds of this task can be worth, at list price."""

    @property
    def worst_nanos(self) -> int:
        """The most that it can cost."""
        return self.list_nanos if self.model.is_paid else 0


class Plan(NamedTuple):
    """Where a task would go. ``selected`` is None when no model can take it."""

    assessment: Assessment
    initial: EscalationReason | None
    """Why the start is not the first layer; None if it is."""
    initial_detail: str
    selected: Model | None
    untriggered: str
    """The trigger that barred the way, in words; empty if none did (R6)."""
    rows: tuple[Row, ...]


def plan(catalog: Catalog, request: Request, standing: Standing, now_ms: int) -> Plan:
    """Work out the plan of one task against shared state as it is."""
    seen, look = Experience(), first_look(request, catalog)
    need = look.need
    way = walk.begin(catalog, request, look, seen)
    require = catalog.rules.require_capability
    view = policy.view(need, seen, standing, now_ms, require=require)
    rows = tuple(
        Row(model, policy.judge(model, layer, view)[0], need.candidate(model, None).nanos)
        for layer in _order(catalog, way)
        for model in need.ranks[layer.index]
    )
    step = way.step(standing, now_ms)
    return Plan(
        assessment=look.assessment,
        initial=look.initial if look.origin else None,
        initial_detail=look.initial_detail if look.origin else "",
        selected=step.candidates[0].model if isinstance(step, walk.Choice) else None,
        untriggered=step.untriggered if isinstance(step, walk.DeadEnd) else "",
        rows=rows,
    )


def _order(catalog: Catalog, way: walk.Walk) -> list[Layer]:
    """Put the layers in the order of the walk, then those it may not come to."""
    order = [catalog.layers[index] for index in way.order]
    return order + [layer for layer in catalog.layers if layer not in order]


def points(micro: int) -> int | float:
    """Turn micro-points into points: at most 6 decimals, and whole numbers without any (R3)."""
    return micro // MICRO if micro % MICRO == 0 else micro / MICRO


def name_of(model: Model) -> str:
    """Name a model as people do, with its account where the provider has several."""
    return f"{model.provider}/{words.name(model)}"


def is_ok(verdict: Verdict) -> bool:
    """Whether nothing stands against a model."""
    return verdict.cls is VerdictClass.OK


def sentence(found: Plan) -> str:
    """Say in one sentence where the task goes, and why there."""
    seen = found.assessment
    score = f"Score {points(seen.score_micro):g}"
    if not seen.stated:
        parts = (seen.files_micro, seen.depth_micro, seen.context_micro)
        files, depth, context = (f"{points(part):g}" for part in parts)
        score += f" (files {files} + depth {depth} + context {context})"
    limit = seen.threshold_micro
    if limit is not None:
        relation = "above" if seen.score_micro > limit else "not above"
        score += f" is {relation} {points(limit):g}"
    why = f" ({found.initial_detail})" if found.initial is EscalationReason.CAPABILITY else ""
    if seen.clamped_by is not None:
        why = f" (held there by {seen.clamped_by.value})"
    if seen.session_note:
        why = f" ({seen.session_note})"
    start = f"{score}: a task of type {seen.type} starts in {seen.start_layer}{why}"
    if found.selected is None:
        reason = found.untriggered or "no model can take it"
        return f"{start}, but {reason}."
    chosen = next(row for row in found.rows if row.model is found.selected)
    costs = "free" if not chosen.worst_nanos else f"at most {words.usd(chosen.worst_nanos)}"
    place = "" if found.selected.layer == seen.start_layer else f" in {found.selected.layer}"
    return f"{start}, and {name_of(found.selected)}{place} is asked first ({costs})."
