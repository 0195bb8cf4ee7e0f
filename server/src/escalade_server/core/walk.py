"""The walk of one task over the layers: up from its start, then down if that is allowed.

Rules of the file:
1. The order is fixed at the start: the start layer, those above it, then those below from near
   to far (R10). The walk never turns back to a layer it has left.
2. A layer is left only when no model of it is ``ok`` (R5), and for RATE only if the strategy
   says so (R7). Before that, holds are waited for (R14) and one short 429 is sat out (R8).
3. A trigger filters why the walk may step *up*, nothing else (R6).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from escalade_server.core import policy
from escalade_server.core.assess import FirstLook
from escalade_server.core.catalog import Catalog, Layer
from escalade_server.core.commands import Candidate
from escalade_server.core.experience import Experience
from escalade_server.core.facts import EscalationReason
from escalade_server.core.failure import FailureClass
from escalade_server.core.need import Need
from escalade_server.core.record import record
from escalade_server.core.rules import OnRateLimit, OnTargetExhausted
from escalade_server.core.standing import OK, Cause, Denial, Standing, Verdict, VerdictClass
from escalade_server.core.survey import Survey, trigger_holds
from escalade_server.core.task import Request
from escalade_server.core.trace import Skip
from escalade_server.core.triggers import LayerTrigger

SHORT_WAIT_MS = 2_000
"""A 429 that asks for no more than this is sat out once before its layer is left (R8)."""
HOLD_LOOK_MS = 25
"""How often a task held up by unsettled reservations looks again (R14)."""

# Faster than their enums.
_HELD, _RATE_SHORT = VerdictClass.HELD, FailureClass.RATE_SHORT
_DOWNGRADE = OnTargetExhausted.DOWNGRADE
_F, _R = FailureClass, EscalationReason
FAILURE_REASON: Mapping[FailureClass, EscalationReason] = {
    _F.RATE_SHORT: _R.RATE_LIMIT,
    _F.QUOTA_WINDOW: _R.RATE_LIMIT,
    _F.SPEND_CAP: _R.CAP,
    _F.BALANCE: _R.CAP,
    _F.OVERLOADED: _R.OUTAGE,
    _F.OUTAGE: _R.OUTAGE,
    _F.TIMEOUT: _R.TIMEOUT,
    _F.CONTEXT: _R.CONTEXT,
    _F.CONTENT: _R.QUALITY,
    _F.REFUSAL: _R.QUALITY,
    _F.AUTH: _R.UNCONFIGURED,
    _F.FORBIDDEN: _R.OUTAGE,
    _F.MODEL_GONE: _R.OUTAGE,
    _F.BAD_REQUEST: _R.OUTAGE,
    _F.TOO_LARGE: _R.CONTEXT,
    _F.PROTOCOL: _R.OUTAGE,
    _F.UNKNOWN: _R.OUTAGE,
    _F.CANCELLED: _R.TIMEOUT,
}
CAUSE_REASON: Mapping[Cause, EscalationReason] = {
    Cause.NONE: _R.OUTAGE,
    Cause.WINDOW_FULL: _R.RATE_LIMIT,
    Cause.CAP_SPENT: _R.CAP,
    Cause.HELD: _R.HELD,
    Cause.NEVER_FITS: _R.CAP,
    Cause.SPEND_LIMIT: _R.CAP,
    Cause.COOLDOWN: _R.OUTAGE,
    Cause.DISABLED: _R.OUTAGE,
    Cause.CIRCUIT_OPEN: _R.OUTAGE,
    Cause.NO_KEY: _R.UNCONFIGURED,
    Cause.NOT_BUILT: _R.UNCONFIGURED,
    Cause.CONTEXT_TOO_SMALL: _R.CONTEXT,
    Cause.FEATURE_MISSING: _R.FEATURE,
    Cause.CAPABILITY_MISSING: _R.CAPABILITY,
    Cause.CONSTRAINT: _R.CONSTRAINT,
    Cause.CONSENT: _R.CONSTRAINT,
    Cause.FREE_ONLY: _R.CONSTRAINT,
    Cause.DATA_POLICY: _R.CONSTRAINT,
    Cause.GATE_FAILED: _R.QUALITY,
    Cause.FAILED_HERE: _R.OUTAGE,
    Cause.TRIGGER_NOT_MET: _R.CONSTRAINT,
}


def reason_of(verdict: Verdict) -> EscalationReason:
    """Reason that a verdict gives for leaving a layer (R20)."""
    if verdict.cls is VerdictClass.REJECTED:
        return EscalationReason.QUALITY
    if verdict.failure is not None:
        return FAILURE_REASON[verdict.failure]
    return CAUSE_REASON[verdict.cause]


@record
class Choice:
    """Try these candidates, in order; ``skips`` were passed over to get here."""

    layer: Layer
    candidates: tuple[Candidate, ...]
    skips: tuple[Skip, ...]
    others_remain: bool
    """Another model could still be tried after the last of these (R24)."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Look again at ``until_ms``; ``earliest_ms`` is what the caller is told."""

    until_ms: int
    earliest_ms: int
    reason: VerdictClass
    rule: str


@dataclass(frozen=True, slots=True)
class DeadEnd:
    """No layer is left. ``untriggered`` names the line of a trigger that barred the way (R6)."""

    untriggered: str
    skips: tuple[Skip, ...]


Step = Choice | Pause | DeadEnd


def begin(catalog: Catalog, request: Request, look: FirstLook, seen: Experience) -> "Walk":
    """Set out; the caller's word on downgrades beats the strategy's (R10)."""
    may_downgrade = request.constraints.may_downgrade
    if may_downgrade is None:
        may_downgrade = catalog.rules.on_target_exhausted is _DOWNGRADE
    walk = Walk(catalog, look.need, look.units, look.origin, look.base, may_downgrade, seen)
    if request.waiting_since_ms:
        walk.hold_until_ms = 0  # its patience was the wait: beside the line is no place (R14)
    return walk


@dataclass(slots=True)
class Walk:
    """Where one task is on its way; one instance a task."""

    catalog: Catalog
    need: Need
    units: int
    origin: int
    base: int
    """Where it would start without its session: to here it may always come down (R29)."""
    may_downgrade: bool
    seen: Experience
    hold_until_ms: int | None = None
    """End of the patience with holds; starts with the first look that finds only holds."""
    forgive_at_ms: int | None = None
    """When the one short 429 that is sat out is over and its model may be tried again; 0: it is."""
    at: int = 0
    """Place in ``order``."""
    passed: list[Skip] = field(default_factory=list)
    """Skips of the layers left since the last call; those that are seen again are not in it."""

    order: Sequence[int] = ()
    """Indices of the layers in the order of rule 1."""

    def __post_init__(self) -> None:
        """Fix the order once."""
        self.order = range(self.origin, len(self.catalog.layers))
        lowest = 0 if self.may_downgrade else self.base
        if self.origin > lowest:
            self.order = [*self.order, *range(self.origin - 1, lowest - 1, -1)]

    def survey(self, layer: Layer, view: policy.View, refused: tuple[Skip, ...] = ()) -> Survey:
        """Judge every model of a layer, in the order of preference."""
        models = self.need.ranks[layer.index]
        if not refused:
            return policy.survey(models, layer, view)
        denied = {skip.model.position: skip.verdict for skip in refused if skip.model}
        return policy.survey(models, layer, view, denied)

    def step(self, standing: Standing, now_ms: int, refused: tuple[Skip, ...] = ()) -> Step:
        """Find the next candidates; ``refused`` is what the store has just denied."""
        if self.forgive_at_ms and now_ms >= self.forgive_at_ms:
            self._forgive(self.forgive_at_ms)
            self.forgive_at_ms = 0
        require = self.catalog.rules.require_capability
        view = policy.view(self.need, self.seen, standing, now_ms, require=require)
        skips, untriggered = list(self.passed), ""
        surveys: dict[str, Survey] = {}
        for place in range(self.at, len(self.order)):
            layer = self.catalog.layers[self.order[place]]
            if self.seen.eventful and layer.index < max(self.seen.rejected_layers, default=0):
                continue  # never below a layer whose answer failed a gate (R10)
            if place > self.at and layer.index > self.origin and layer.triggers:
                self._survey_sources(layer, view, surveys)
                if not any(trigger_holds(t, self.units, surveys) for t in layer.triggers):
                    untriggered = _untriggered(layer)
                    cls, cause = VerdictClass.TRIGGER_NOT_MET, Cause.TRIGGER_NOT_MET
                    skips.append(Skip(layer.name, None, Verdict(cls, cause, untriggered)))
                    continue
            survey = self.survey(layer, view, refused)
            surveys[layer.name] = survey
            before = len(skips)
            skips += survey.skips
            if survey.good:
                self.at, self.passed = place, skips[:before]
                others = len(survey.good) > 1 or self._others(place + 1, view)
                return Choice(layer, tuple(survey.good), tuple(skips), others)
            pause = self._stay(layer, survey, now_ms)
            if pause is not None:
                self.at, self.passed = place, skips[:before]
                return pause
            if self._barred(survey):
                return DeadEnd("", tuple(skips))
        return DeadEnd(untriggered, tuple(skips))

    def granted(self, choice: Choice, denials: tuple[Denial, ...]) -> tuple[Skip, ...]:
        """Take it that one of a choice was reserved; answer all that was passed over for it."""
        self.passed = []
        return choice.skips + policy.refused(choice.candidates, denials)

    def _survey_sources(self, layer: Layer, view: policy.View, surveys: dict[str, Survey]) -> None:
        """Judge the layers that a trigger asks about and the walk has not come through."""
        for trigger in layer.triggers:
            if isinstance(trigger, LayerTrigger) and trigger.layer not in surveys:
                source = next(one for one in self.catalog.layers if one.name == trigger.layer)
                surveys[source.name] = self.survey(source, view)

    def _stay(self, layer: Layer, survey: Survey, now_ms: int) -> Pause | None:
        """Wait a moment rather than leave the layer, if that can help (R8, R14)."""
        held, soon = False, list[int]()
        for _, _, verdict in survey.skips:
            if verdict.cls is _HELD:
                held = True
            elif verdict.failure is _RATE_SHORT and verdict.until_ms is not None:
                soon.append(verdict.until_ms)
        if held:
            if self.hold_until_ms is None:
                self.hold_until_ms = now_ms + self.catalog.rules.hold_patience_ms
            if now_ms < self.hold_until_ms:
                rule = f"{layer.name}: room is held by calls that are still running"
                until = min(now_ms + HOLD_LOOK_MS, self.hold_until_ms)
                return Pause(until, self.hold_until_ms, VerdictClass.HELD, rule)
        if self.forgive_at_ms is not None or not soon or min(soon) > now_ms + SHORT_WAIT_MS:
            return None
        self.forgive_at_ms = min(soon)
        until = max(min(soon), now_ms)
        return Pause(until, until, VerdictClass.RATE, f"{layer.name}: its provider's pace")

    def _forgive(self, until_ms: int) -> None:
        """Let what asked for a wait to this instant be tried once more, now that it is over."""
        for position, verdict in list(self.seen.tried.items()):
            if verdict.failure is _RATE_SHORT and verdict.until_ms == until_ms:
                del self.seen.tried[position]

    def _barred(self, survey: Survey) -> bool:
        """A layer out for RATE is not left under ``rate_limit_hit: next_model`` (R7)."""
        stay = self.catalog.rules.on_rate_limit is OnRateLimit.NEXT_MODEL
        return stay and survey.has(VerdictClass.RATE)

    def _others(self, place: int, view: policy.View) -> bool:
        """Tell whether a layer from this place on has a model that could be tried."""
        for index in self.order[place:]:
            layer = self.catalog.layers[index]
            for model in layer.models:
                if policy.judge(model, layer, view)[0] is OK:
                    return True
        return False


def _untriggered(layer: Layer) -> str:
    trigger = layer.triggers[-1]
    return f"{layer.name} opens by `{trigger.text}` (line {trigger.line}), which does not hold"
