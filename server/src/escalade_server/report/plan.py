"""The plan of one task without a server: score, start, and what stands for or against each model.

It drives the same core as the service, on shared state in which nothing is used yet (R12).
"""

from dataclasses import dataclass

from escalade_server.core import policy, walk, words
from escalade_server.core.assess import first_look
from escalade_server.core.catalog import Catalog, Layer, Model
from escalade_server.core.experience import Experience
from escalade_server.core.facts import EscalationReason
from escalade_server.core.need import Need
from escalade_server.core.standing import Standing, Verdict, VerdictClass
from escalade_server.core.task import MICRO, Constraints, Message, Request, Role, Task, Text
from escalade_server.core.trace import Assessment


@dataclass(frozen=True, slots=True)
class Question:
    """What ``explain`` is asked; the fields are those of a task and its constraints."""

    type: str = ""
    files: int | None = None
    tokens: int | None = None
    complexity_micro: int | None = None
    capabilities: tuple[str, ...] = ()
    free_only: bool = False
    highest_layer: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One model in the order of the walk, with its own verdict."""

    model: Model
    verdict: Verdict
    worst_nanos: int
    """The most that one call within the bounds of this task can cost, at list price."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a task would go. ``selected`` is None when no model can take it."""

    assessment: Assessment
    initial: EscalationReason | None
    """Why the start is not the first layer; None if it is."""
    initial_detail: str
    selected: Model | None
    untriggered: str
    """The trigger that barred the way, in words; empty if none did (R6)."""
    rows: tuple[Row, ...]


def plan(catalog: Catalog, question: Question) -> Plan:
    """Work out the plan of one task.

    Raises:
        ValueError: no layer has the name of ``highest_layer``.
    """
    names = [layer.name for layer in catalog.layers]
    if question.highest_layer and question.highest_layer not in names:
        raise ValueError(f"no layer is named {question.highest_layer!r}: {', '.join(names)}")
    request, seen = _request(question), Experience()
    look = first_look(request, catalog)
    need = _sized(look.need, question.tokens or 0)
    way = walk.begin(catalog, request, look._replace(need=need), seen)
    view = policy.View(need, seen, Standing(), 0, catalog.rules.require_capability)
    rows = tuple(
        Row(model, policy.judge(model, layer, view)[0], _worst_nanos(model, need))
        for layer in _order(catalog, way)
        for model in policy.ranked(layer, need)
    )
    step = way.step(Standing(), 0)
    return Plan(
        assessment=look.assessment,
        initial=look.initial if look.origin else None,
        initial_detail=look.initial_detail if look.origin else "",
        selected=step.candidates[0].model if isinstance(step, walk.Choice) else None,
        untriggered=step.untriggered if isinstance(step, walk.DeadEnd) else "",
        rows=rows,
    )


def _sized(need: Need, tokens: int) -> Need:
    """Believe the stated tokens where there are no messages to measure."""
    return need._replace(
        input_bound=max(need.input_bound, tokens),
        input_estimate=max(need.input_estimate, tokens),
    )


def _order(catalog: Catalog, way: walk.Walk) -> list[Layer]:
    """Put the layers in the order of the walk, then those it may not come to."""
    order = [catalog.layers[index] for index in way.order]
    return order + [layer for layer in catalog.layers if layer not in order]


def _worst_nanos(model: Model, need: Need) -> int:
    return need.candidate(model, None).nanos if model.is_paid else 0


def _request(question: Question) -> Request:
    messages = (Message(Role.USER, (Text(question.message),)),) if question.message else ()
    return Request(
        id="",
        task=Task(
            type=question.type,
            files=question.files,
            tokens=question.tokens,
            complexity_micro=question.complexity_micro,
            capabilities=question.capabilities,
        ),
        messages=messages,
        constraints=Constraints(free_only=question.free_only, highest_layer=question.highest_layer),
    )


def points(micro: int) -> int | float:
    """Turn micro-points into points: at most 6 decimals, and whole numbers without any (R3)."""
    return micro // MICRO if micro % MICRO == 0 else micro / MICRO


def name_of(model: Model) -> str:
    """Name a model as people do."""
    return f"{model.provider}/{model.id}"


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
    start = f"{score}: a task of type {seen.type} starts in {seen.start_layer}{why}"
    if found.selected is None:
        reason = found.untriggered or "no model can take it"
        return f"{start}, but {reason}."
    chosen = next(row for row in found.rows if row.model is found.selected)
    costs = "free" if not chosen.worst_nanos else f"at most {words.usd(chosen.worst_nanos)}"
    place = "" if found.selected.layer == seen.start_layer else f" in {found.selected.layer}"
    return f"{start}, and {name_of(found.selected)}{place} is asked first ({costs})."


def is_ok(verdict: Verdict) -> bool:
    """Whether nothing stands against a model."""
    return verdict.cls is VerdictClass.OK


def as_json(found: Plan, missing: dict[tuple[str, str], str]) -> dict[str, object]:
    """Turn a plan into plain data; ``missing`` says which accounts lack a key, and why."""
    seen, chosen = found.assessment, found.selected
    return {
        "score": points(seen.score_micro),
        "uncapped_score": points(seen.uncapped_micro),
        "parts": {
            "files": points(seen.files_micro),
            "depth": points(seen.depth_micro),
            "context": points(seen.context_micro),
        },
        "stated": seen.stated,
        "task_type": seen.type,
        "estimated": dict(seen.estimated),
        "threshold": None if seen.threshold_micro is None else points(seen.threshold_micro),
        "target_layer": seen.target_layer,
        "start_layer": seen.start_layer,
        "clamped_by": seen.clamped_by.value if seen.clamped_by else None,
        "initial_escalation": found.initial.value if found.initial else None,
        "selected": None
        if chosen is None
        else {"layer": chosen.layer, "provider": chosen.provider, "model": chosen.id},
        "candidates": [_candidate(row, missing) for row in found.rows],
        "sentence": sentence(found),
    }


def _candidate(row: Row, missing: dict[tuple[str, str], str]) -> dict[str, object]:
    model = row.model
    return {
        "layer": model.layer,
        "provider": model.provider,
        "model": model.id,
        "verdict": row.verdict.cls.value,
        "reason": "" if is_ok(row.verdict) else row.verdict.cause.value,
        "detail": row.verdict.detail,
        "billing": model.billing.value,
        "worst_cost_nano_usd": row.worst_nanos,
        "credential": "missing" if missing.get((model.provider, model.account)) else "present",
    }
