"""The sentence for people: one task, told from its diary (DESIGN 6)."""

from escalade_server.core import words
from escalade_server.core.diary import Diary
from escalade_server.core.facts import EscalationReason
from escalade_server.core.failure import FailureClass
from escalade_server.core.trace import AttemptRecord, AttemptStatus

_OK = AttemptStatus.OK
WORTH_TELLING_MS = 1_000
"""A wait shorter than this is no part of the story."""


def tell(
    diary: Diary, winner: AttemptRecord | None, instead: int | None, now_ms: int, failed: str
) -> str:
    """Tell the task in one sentence; ``instead`` are the nanos of the baseline (DESIGN 6)."""
    seen = diary.look.assessment
    parts = [f"Score {words.points(seen.score_micro)} → {seen.start_layer}"]
    if seen.session_note:
        parts.append(seen.session_note)
    if diary.escalations or winner is None or len(diary.attempts) > 1:
        parts += _trouble(diary)
    if diary.waited_ms >= WORTH_TELLING_MS:
        parts.append(f"waited {diary.waited_ms / 1000:.0f} s")
    took = f"{(now_ms - diary.started_ms) / 1000:.1f} s"
    if winner is None:
        return f"{'; '.join(parts)}; {failed or 'no answer'}, after {took}"
    although = f", although it failed ({winner.detail})" if winner is diary.stand_in else ""
    parts.append(f"answered by {words.name(winner.model)}{although}")
    paid = sum([a.list_nanos for a in diary.attempts if a.model.is_paid])
    figures = f"{took}, {words.usd(paid) if paid or winner.model.is_paid else 'free'}"
    baseline = diary.catalog.baseline
    if baseline is None or instead is None or winner.model is baseline:
        return f"{'; '.join(parts)}: {figures}"
    return f"{'; '.join(parts)}: {figures}; {baseline.id} would have cost {words.usd(instead)}"


def _trouble(diary: Diary) -> list[str]:
    """Tell what failed, and each change of layer but the one at the start."""
    start = diary.look.assessment.start_layer
    told: set[int] = set()
    changes: list[str] = []
    for escalation in diary.escalations:
        if escalation.to_layer == start and escalation is diary.escalations[0]:
            continue
        if escalation.failed_attempt:
            told.add(escalation.failed_attempt)
        down = escalation.reason is EscalationReason.DOWNGRADE
        did = "downgraded" if down else "escalated"
        changes.append(f"{escalation.detail}, so {did} to {escalation.to_layer}")
    fell = [a for a in diary.attempts if a.status is not _OK and a.number not in told]
    return [f"{words.name(a.model)} failed ({_why(a.failure, a.detail)})" for a in fell] + changes


def _why(failure: FailureClass | None, detail: str) -> str:
    return detail or (failure.value if failure else "its answer failed a gate")
