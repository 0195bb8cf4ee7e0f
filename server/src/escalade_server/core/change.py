"""Changes of the selected model in words and reasons: escalations and fallbacks (R20)."""

from escalade_server.core import walk, words
from escalade_server.core.attempt import Live
from escalade_server.core.catalog import Layer, Model
from escalade_server.core.diary import Diary
from escalade_server.core.facts import (
    Alert,
    AlertKind,
    Escalated,
    EscalationKind,
    EscalationReason,
    Fact,
    Fallback,
    Selected,
)
from escalade_server.core.trace import AttemptRecord, AttemptStatus, Skip


def escalation(diary: Diary, to: Layer, skips: tuple[Skip, ...]) -> Escalated:
    """Explain the change from the last selected layer to ``to``.

    The reason is the class of this task's last failed attempt in the layer that is left, else of
    its first-ranked model; layers passed over stand in ``detail`` (R20).
    """
    left, look = diary.layer_path[-1], diary.look
    failed = _last_failed(diary, left)
    kind, reason = EscalationKind.FAILURE, EscalationReason.OUTAGE
    begun = len(diary.layer_path) > 1 or diary.attempts
    highest = next(layer.index for layer in diary.catalog.layers if layer.name == left)
    down = to.index < max(look.origin, highest)  # after a wait the walk begins anew
    blamed = look.assessment.start_layer if down and not begun else left
    first = next((s for s in skips if s.layer == blamed and s.model), None)
    if failed is not None:
        reason, detail = _reason_of(failed), broke(failed.model, failed.detail)
    elif not begun and look.origin and not down:
        kind, reason, detail = EscalationKind.INITIAL, look.initial, look.initial_detail
    elif first is not None and first.model:
        reason = walk.reason_of(first.verdict)
        sep = " " if _is_full(first) else ": "
        detail = f"{words.name(first.model)}{sep}{_had(first)}"
    else:
        detail = f"no model of {left} is available"
    passed = [s for s in skips if s is not first and s.layer not in (left, to.name)]
    if passed:
        detail += f"; passed over {', '.join(dict.fromkeys(_passed(s) for s in passed))}"
    if down:
        kind, reason = EscalationKind.DOWNGRADE, EscalationReason.DOWNGRADE
    return Escalated(left, to.name, reason, detail, kind, failed.number if failed else None)


def broke(model: Model, detail: str) -> str:
    """Say which model failed, and how."""
    return f"{words.name(model)}: {detail}"


def facts(diary: Diary, layer: Layer, live: Live, skips: tuple[Skip, ...]) -> list[Fact]:
    """Announce a newly selected model, after the change of layer or the fallback it amounts to.

    Writes the layer path. Entering a paid layer because a lower one has no usable key is an
    alert too (R12).
    """
    told: list[Fact] = []
    left, model = diary.layer_path[-1], live.model
    failed = diary.attempts[-1] if diary.attempts else None
    if layer.name != left:
        escalated = escalation(diary, layer, skips)
        diary.layer_path.append(layer.name)
        diary.escalations.append(escalated)
        if escalated.reason is EscalationReason.UNCONFIGURED and layer.is_paid:
            detail = f"{layer.name} is used because {left} is not configured: {escalated.detail}"
            told.append(Alert(AlertKind.UNCONFIGURED, detail, model))
        told.append(escalated)
    elif layer.index < diary.look.origin and not diary.attempts:
        # Down to the very layer where every path begins: no change to announce, but never silent.
        told.append(Alert(AlertKind.EXHAUSTED, escalation(diary, layer, skips).detail, model))
    elif failed is not None and failed.model is not model and failed.failure is not None:
        diary.fallbacks += 1
        told.append(Fallback(failed.number, failed.model, model, failed.failure, failed.detail))
    selected = Selected(
        live.number,
        model,
        live.reservation_id,
        live.total_by_ms,
        diary.look.need.input_bound,
        live.candidate.output_tokens_max,
        skips,
        () if live.demands is None else live.demands.held_by,
        tuple(diary.attempts),
    )
    told.append(selected)
    return told


def stands_in(diary: Diary, live: Live) -> list[Fact]:
    """Announce that the answer of an earlier layer is delivered after all (R21)."""
    left, layer = diary.layer_path[-1], live.model.layer
    if left == layer:
        return []
    detail = f"no better answer was had in {left}"
    down = Escalated(
        left, layer, EscalationReason.DOWNGRADE, detail, EscalationKind.DOWNGRADE, live.number
    )
    diary.layer_path.append(layer)
    diary.escalations.append(down)
    return [down]


def _last_failed(diary: Diary, layer: str) -> AttemptRecord | None:
    return next(
        (
            a
            for a in reversed(diary.attempts)
            if a.model.layer == layer and a.status is not AttemptStatus.OK
        ),
        None,
    )


def _reason_of(failed: AttemptRecord) -> EscalationReason:
    if failed.status is AttemptStatus.NOT_SENT:
        return EscalationReason.CONSTRAINT
    if failed.status is AttemptStatus.REJECTED or failed.failure is None:
        return EscalationReason.QUALITY
    return walk.FAILURE_REASON[failed.failure]


def _had(skip: Skip) -> str:
    return f"had {skip.verdict.detail}" if _is_full(skip) else skip.verdict.detail


def _is_full(skip: Skip) -> bool:
    return skip.verdict.cause.value in ("window_full", "cap_spent", "held")


def _passed(skip: Skip) -> str:
    if skip.model is None:
        return f"{skip.layer} ({skip.verdict.detail})"
    return f"{words.name(skip.model)} ({_had(skip)})"
