"""The first look at a task: its score, what it needs, and where it starts."""

from dataclasses import replace

from escalade_server.core import complexity
from escalade_server.core.catalog import Catalog, TaskType
from escalade_server.core.facts import EscalationReason
from escalade_server.core.need import Need, need_of
from escalade_server.core.record import record
from escalade_server.core.session import Step, Turn, note_of
from escalade_server.core.start import start, step_up
from escalade_server.core.task import Request
from escalade_server.core.trace import Assessment, Clamp


@record
class FirstLook:
    """``initial`` is the reason announced when the start is not the first layer (R20)."""

    assessment: Assessment
    need: Need
    units: int
    origin: int
    initial: EscalationReason
    initial_detail: str
    base: int = 0
    """Index of the layer where it would start without its session."""
    turn: Turn | None = None


def first_look(request: Request, catalog: Catalog) -> FirstLook:
    """Assess a request: score, bounds and start, each once."""
    text_bytes, images = complexity.size(request)
    traits = complexity.traits(request, catalog, text_bytes)
    kind, stated = traits.type, request.task.complexity_micro
    points = (
        complexity.stated(stated)
        if stated is not None
        else complexity.score(
            catalog.scoring,
            files=traits.files,
            depth=kind.depth,
            tokens=traits.tokens,
        )
    )
    need = need_of(request, catalog, kind, text_bytes, images)
    origin, target, clamped = start(catalog, need, kind, points.units)
    if target and origin == target:
        need = replace(need, jumped_to=target)
    threshold = catalog.scoring.threshold_micro
    per_micro = complexity.UNITS_PER_MICRO
    assessment = Assessment(  # by place: names cost as much as all the rest of it
        points.units // per_micro,
        points.uncapped_units // per_micro,
        points.files_units // per_micro,
        points.depth_units // per_micro,
        points.context_units // per_micro,
        threshold,
        stated is not None,
        kind.name,
        traits.estimated,
        catalog.layers[target].name,
        catalog.layers[origin].name,
        clamped,
    )
    initial, why = EscalationReason.CAPABILITY, ""
    if clamped is Clamp.LOWEST_LAYER:
        initial, why = EscalationReason.CONSTRAINT, "the caller allows no lower layer"
    elif origin > target:
        why = _capability_detail(need, kind)
    elif origin:
        score = assessment.score_micro / 1e6
        above = f" is above {threshold / 1e6:g}" if threshold is not None else " is high"
        initial, why = EscalationReason.COMPLEXITY, f"score {score:.3g}{above}"
    look = FirstLook(assessment, need, points.units, origin, initial, why, origin)
    return look if request.session is None else _in_session(look, request.session, catalog)


def _in_session(look: FirstLook, step: Step, catalog: Catalog) -> FirstLook:
    """Look again with what is known of the session (R29)."""
    origin, turn, ranks = step_up(catalog, look.need, look.base, step)
    note, initial, why = note_of(turn), look.initial, look.initial_detail
    if note and origin:
        initial, why = EscalationReason.EVIDENCE, f"{note}; {why}" if why else note
    assessment = replace(
        look.assessment,
        start_layer=catalog.layers[origin].name,
        raised_by=turn.raised,
        session_note=note,
    )
    need = replace(look.need, ranks=ranks)
    return FirstLook(assessment, need, look.units, origin, initial, why, look.base, turn)


def _capability_detail(need: Need, kind: TaskType) -> str:
    if kind.start is not None:
        return f"{kind.name} tasks are pinned to start here"
    joint = " and " if need.all_of else " or "
    return f"no model below declares {joint.join(sorted(need.capabilities))}"
