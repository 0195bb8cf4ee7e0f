"""The sentence for people: one task, told from its diary (DESIGN 6)."""

from collections import deque
from collections.abc import Mapping

from escalade_server.core import words
from escalade_server.core.diary import Diary
from escalade_server.core.facts import EscalationReason
from escalade_server.core.trace import AttemptRecord, AttemptStatus

_OK = AttemptStatus.OK
_NO_FAILURE: Mapping[AttemptStatus, str] = {
    AttemptStatus.CANCELLED: "was cancelled",
    AttemptStatus.NOT_SENT: "was not called",
    AttemptStatus.UNREPORTED: "was not reported",
}
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
    took = f"{(now_ms - diary.started_ms) / 1000:.1f} s"
    if diary.waited_ms >= WORTH_TELLING_MS:
        took += f" (waited {diary.waited_ms / 1000:.0f} s)"
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
    """Tell what failed, and each change of layer but the one at the start, in their order."""
    start, told = diary.look.assessment.start_layer, list[str]()
    left = deque(diary.attempts)
    for escalation in diary.escalations:
        if escalation.to_layer == start and escalation is diary.escalations[0]:
            continue
        last = escalation.failed_attempt
        while left and (
            left[0].number <= last if last else left[0].model.layer == escalation.from_layer
        ):
            attempt = left.popleft()
            if attempt.number != last:  # that one is the reason of the change
                told += _fell(attempt)
        down = escalation.reason is EscalationReason.DOWNGRADE
        did = "downgraded" if down else "escalated"
        told.append(f"{escalation.detail}, so {did} to {escalation.to_layer}")
    for attempt in left:
        told += _fell(attempt)
    return told


def _fell(attempt: AttemptRecord) -> list[str]:
    """Say what became of an attempt; nothing of the answer."""
    if attempt.status is _OK:
        return []
    name, why = words.name(attempt.model), attempt.detail
    if attempt.status in _NO_FAILURE:
        return [f"{name} {_NO_FAILURE[attempt.status]}{f' ({why})' if why else ''}"]
    if not why:
        why = attempt.failure.value if attempt.failure else "its answer failed a gate"
    return [f"{name} failed ({why})"]
