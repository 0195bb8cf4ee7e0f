"""What must hold for every task at every step, whatever the world does. One class, one promise.

A checker names the events, commands and facts it looks at, and raises ``Violation`` at the first
that breaks its promise. What the books must hold is in ``auditors`` and ``bills``.
"""

from collections import Counter as Tally
from typing import Protocol

from escalade_server.core.catalog import Model
from escalade_server.core.commands import CallModel, Command, Deliver, End, Reserve, Settle
from escalade_server.core.events import AttemptFailed, ChunkArrived, Event, TextDelta
from escalade_server.core.facts import (
    Escalated,
    Fact,
    Failed,
    Fallback,
    Finished,
    Retracted,
    Selected,
    Waiting,
)
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import CircuitState
from escalade_server.core.task import Delivery, Text
from escalade_server.core.trace import AttemptStatus
from escalade_server.engine.health import Health
from escalade_server.simulation.driver import Play
from escalade_server.simulation.gates import is_gated, winner_of

Seen = Event | Command | Fact


class Violation(Exception):
    """A promise that did not hold. ``name`` is the checker's."""

    def __init__(self, name: str, detail: str) -> None:
        """Keep both."""
        super().__init__(f"{name}: {detail}")
        self.name = name


class Checker(Protocol):
    """Looks at every event, command and fact of the kinds it names."""

    @property
    def kinds(self) -> tuple[type[Seen], ...]:
        """What it wants to see."""
        ...

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        ...


def demand(holds: bool, checker: object, detail: str) -> None:  # noqa: FBT001 - as in assert
    """Raise the violation of a checker unless something holds."""
    if not holds:
        raise Violation(type(checker).__name__, detail)


class OneEnding:
    """A task has one ending, and nothing is told, reserved or called after it."""

    kinds = (Deliver, Reserve, CallModel, End, Escalated, Selected, Fallback, Waiting, Retracted)

    def __init__(self) -> None:
        self.ended: set[int] = set()

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del now_ms
        demand(play.number not in self.ended, self, f"{type(what).__name__} after the ending")
        if isinstance(what, End):
            self.ended.add(play.number)


class ChangesAnnounced:
    """Each change of layer is one ``Escalated``, from(k+1) = to(k), before anything of it."""

    kinds = (Escalated, Selected, CallModel, Deliver, End)

    def __init__(self) -> None:
        self._layer: dict[int, str] = {}
        self._selected: dict[int, tuple[int, str]] = {}
        self._earlier: dict[int, int] = {}

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del now_ms
        first = play.driver.catalog.layers[0].name
        at = self._layer.get(play.number, first)
        if isinstance(what, Escalated):
            demand(what.from_layer == at, self, f"announced from {what.from_layer}, is in {at}")
            demand(what.to_layer != at, self, f"announced a change from {at} to itself")
            self._layer[play.number] = what.to_layer
        elif isinstance(what, Selected):
            demand(what.model.layer == at, self, f"selected in {what.model.layer}, is in {at}")
            self._selected[play.number] = what.attempt, what.model.key
        elif isinstance(what, CallModel):
            called = what.attempt, what.candidate.model.key
            demand(called == self._selected.get(play.number), self, f"{called} was not selected")
        elif isinstance(what, Deliver):
            attempt, _ = self._selected.get(play.number, (0, ""))
            if what.attempt != attempt:
                self._earlier[play.number] = what.attempt
        elif isinstance(what, End):
            earlier = self._earlier.get(play.number)
            stands_in = isinstance(what.outcome, Finished) and what.outcome.unmet is not None
            demand(earlier is None or stands_in, self, f"a delta of {earlier}, before the last")
            path = what.outcome.report.layer_path
            demand(path[-1] == at, self, f"the report ends in {path[-1]}, the changes in {at}")


class NoSplice:
    """What a caller holds is text of one attempt, whole and in order; the rest was retracted."""

    kinds = (Deliver, Retracted, End)

    def __init__(self) -> None:
        self._texts: dict[int, tuple[int, str]] = {}

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del now_ms
        number = play.number
        attempt, text = self._texts.get(number, (0, ""))
        if isinstance(what, Deliver):
            demand(play.request.delivery is Delivery.STREAM, self, "a delta nobody asked for")
            demand(attempt in (0, what.attempt), self, f"text of {attempt} and of {what.attempt}")
            more = "".join([d.text for d in what.deltas if isinstance(d, TextDelta)])
            self._texts[number] = what.attempt, text + more
        elif isinstance(what, Retracted):
            demand(what.attempt == attempt, self, f"retracted {what.attempt}, had {attempt}")
            self._texts.pop(number)
        elif isinstance(what, End) and isinstance(what.outcome, Finished):
            answered = winner_of(what.outcome).number
            parts = [p.text for p in what.outcome.answer.parts if isinstance(p, Text)]
            if play.request.delivery is Delivery.WHOLE:
                text = "".join(parts)
            demand(attempt in (0, answered), self, f"holds text of {attempt}, not of {answered}")
            tags = text.split()
            told = [f"{play.request.id}.{answered}.{i}" for i in range(len(tags) + 1)]
            demand(tags in (told[:-1], told[1:]), self, f"the answer is {text!r}")


class CircuitsRespected:
    """Nothing is reserved or called on an open circuit, nothing reserved that is set aside."""

    kinds = (Reserve, Selected)

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        driver = play.driver
        if isinstance(what, Selected):
            shut = _is_open(what.model, driver.health, now_ms)
            demand(not shut, self, f"called {what.model.key} on an open circuit")
        elif isinstance(what, Reserve):
            benches = driver.ledger.standing().benches
            for candidate in what.candidates:
                model = candidate.model
                shut = _is_open(model, driver.health, now_ms)
                demand(not shut, self, f"reserved {model.key} on an open circuit")
                for key in (model.key, model.account_key, model.provider):
                    bench = benches.get(key)
                    rests = bench is not None and bench.until_ms > now_ms
                    demand(not rests, self, f"reserved {model.key}, which is set aside")


def _is_open(model: Model, health: Health, now_ms: int) -> bool:
    """Ask in both ways in which the product asks: neither may be blind."""
    circuits = health.circuits(now_ms)
    found = (circuits.get(key) for key in (model.provider, model.key))
    shown = any(one is not None and one.state is CircuitState.OPEN for one in found)
    return shown or health.is_shut(model, now_ms)


class LimitsRespected:
    """No paid layer for free-only tasks or without consent, no more than a task may spend."""

    kinds = (CallModel, Selected, Settle)

    def __init__(self, lies: set[tuple[int, int]]) -> None:
        self._lies = lies
        self._spent: Tally[int] = Tally()
        self._paid: set[tuple[int, int]] = set()

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del now_ms
        if isinstance(what, Settle):
            if (play.number, what.attempt) in self._paid:
                self._spent[play.number] += what.nanos
                self._paid.discard((play.number, what.attempt))
            return
        limits, model = play.request.constraints, None
        if isinstance(what, CallModel):
            model = what.candidate.model
            most = limits.spend_limit_nanos
            if most is not None and model.is_paid:
                told_wrong = any(number == play.number for number, _ in self._lies)
                much = self._spent[play.number] + what.candidate.nanos
                demand(much <= most or told_wrong, self, f"may spend {most}, could spend {much}")
        elif isinstance(what, Selected):
            model = what.model
            if model.is_paid:
                self._paid.add((play.number, what.attempt))
        if model is None:
            return
        layers = play.driver.catalog.layers
        layer, names = layers[model.layer_index], [each.name for each in layers]
        if limits.free_only or limits.spend_limit_nanos == 0:
            demand(not layer.is_paid, self, f"{model.key} costs money")
        if layer.consent_required:
            agreed = {"*", layer.name} & set(limits.consented_layers)
            demand(bool(agreed), self, f"{layer.name} needs consent")
        low, high = limits.lowest_layer or names[0], limits.highest_layer or names[-1]
        inside = names.index(low) <= layer.index <= names.index(high)
        demand(inside, self, f"{layer.name} is outside of {low} to {high}")
        demand(model.id not in limits.denied_models, self, f"{model.id} is denied")
        allowed = limits.allowed_models
        demand(not allowed or model.id in allowed, self, f"{model.id} is not allowed")


class AttemptsBounded:
    """A task makes at most eight attempts, and each of a number of its own, one after another."""

    kinds = (Selected, CallModel, Settle)

    def __init__(self) -> None:
        self._made: Tally[int] = Tally()
        self._open: dict[int, int] = {}

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del now_ms
        number = play.number
        if isinstance(what, Selected):
            self._made[number] += 1
            most = play.driver.catalog.rules.attempts_max
            demand(self._made[number] <= most, self, f"attempt {self._made[number]} of {most}")
            demand(number not in self._open, self, f"{what.attempt} begun beside another")
            self._open[number] = what.attempt
        elif isinstance(what, Settle) and self._open.get(number) == what.attempt:
            del self._open[number]


class SettledOnce:
    """Every reservation that was granted is settled once; nothing else is.

    A second settlement may say, of the same amounts, that the task is answered by it (R21).
    """

    kinds = (Reserve, Settle)

    def __init__(self) -> None:
        self.ordered: set[str] = set()
        self.settled: dict[str, tuple[int, ...]] = {}

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del play, now_ms
        if isinstance(what, Reserve):
            demand(what.reservation_id not in self.ordered, self, f"{what.reservation_id} again")
            self.ordered.add(what.reservation_id)
        elif isinstance(what, Settle):
            id_ = what.reservation_id
            demand(id_ in self.ordered, self, f"settles {id_}, which was never reserved")
            amounts = (what.requests, what.tokens, what.nanos, what.charged_nanos)
            marks = what.figures is not None and self.settled.pop(id_, None) == amounts
            demand(marks or id_ not in self.settled, self, f"settles {id_} twice")
            self.settled[id_] = amounts


class InstantsAhead:
    """The instant at which a caller is told to come back lies ahead."""

    kinds = (End, Waiting)

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del play
        told: int | None = None
        if isinstance(what, Waiting):
            told = what.earliest_ms
        elif isinstance(what, End) and isinstance(what.outcome, Failed):
            told = what.outcome.retry_at_ms
        ahead = told is None or told >= now_ms
        demand(ahead, self, f"told to come back at {told}, it is {now_ms}")


class ReportsTrue:
    """The report of a task tells exactly the attempts that were made, and what was booked."""

    kinds = (Selected, Settle, End)

    def __init__(self) -> None:
        self._booked: dict[int, list[tuple[int, int, int]]] = {}
        self._made: dict[int, set[int]] = {}

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del now_ms
        if isinstance(what, Settle):
            booked = self._booked.setdefault(play.number, [])
            if any(what.attempt == before for before, _, _ in booked):
                return  # it stands in; ``SettledOnce`` compares
            if what.requests or what.attempt in self._made.get(play.number, ()):
                booked.append((what.attempt, what.nanos, what.charged_nanos))
            else:  # given back: it was never confirmed, or came when the caller had left
                demand(not what.nanos, self, f"books {what.nanos} nanos for an attempt not made")
        elif isinstance(what, Selected):
            self._made.setdefault(play.number, set()).add(what.attempt)
        elif isinstance(what, End):
            report = what.outcome.report
            made = self._made.get(play.number, ())
            attempts = [a for a in report.attempts if a.number in made]
            told = [(a.number, a.list_nanos, a.charged_nanos) for a in attempts]
            booked = self._booked.get(play.number, [])
            demand(told == booked, self, f"reports {told}, booked {booked}")
            demand(report.list_nanos == sum(b[1] for b in booked), self, "the sum is wrong")
            answered = [a for a in report.attempts if a.status is AttemptStatus.OK]
            routed = play.request.delivery is Delivery.ROUTE  # it need not say that it answered
            good = isinstance(what.outcome, Finished) and what.outcome.unmet is None
            demand(
                len(answered) == 1 or routed or not good,
                self,
                f"{len(answered)} answers in a report",
            )


class AnswersAreWhole:
    """An answer is one by its provider's own finish reason, or its filter (DESIGN 6, 6)."""

    kinds = (ChunkArrived, AttemptFailed, End)

    def __init__(self) -> None:
        self._finished: set[tuple[int, int]] = set()

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del now_ms
        if isinstance(what, ChunkArrived):
            finished = what.finish is not None
        elif isinstance(what, AttemptFailed):
            finished = what.failure.cls in (FailureClass.CONTENT, FailureClass.REFUSAL)
        else:
            if isinstance(what, End) and isinstance(what.outcome, Finished):
                number = winner_of(what.outcome).number
                routed = play.request.delivery is Delivery.ROUTE  # its caller's word is taken
                whole = routed or (play.number, number) in self._finished
                demand(whole, self, f"the answer of {number} has no finish reason")
            return
        if finished:
            self._finished.add((play.number, what.attempt))


class GatesHold:
    """Nothing of an answer that failed a gate was ever delivered, unless it stands in (R21).

    Its layer is left for good.
    """

    kinds = (Selected, Deliver, End)

    def __init__(self) -> None:
        self._delivered: dict[int, set[int]] = {}
        self._held: set[tuple[int, int]] = set()

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del now_ms
        number = play.number
        if isinstance(what, Selected) and what.held_by:
            self._held.add((number, what.attempt))
        elif isinstance(what, Deliver):
            self._delivered.setdefault(number, set()).add(what.attempt)
        elif isinstance(what, End):
            left: set[str] = set()
            for made in what.outcome.report.attempts:
                demand(made.model.layer not in left, self, f"{made.number} is in a rejected layer")
                if made.status is AttemptStatus.REJECTED:
                    left.add(made.model.layer)
            rejected = {a.number for a in what.outcome.report.attempts if is_gated(a)}
            if isinstance(what.outcome, Finished) and what.outcome.unmet is not None:
                rejected.discard(winner_of(what.outcome).number)
            told = rejected & self._delivered.get(number, set())
            demand(not told, self, f"delivered of {sorted(told)}, which were rejected")
            routed = play.request.delivery is Delivery.ROUTE  # the gates are the caller's own
            unsaid = {a for a in rejected if (number, a) not in self._held}
            demand(routed or not unsaid, self, f"{sorted(unsaid)} were held without a word")


class EndsInTime:
    """A task ends by its deadline, waits apart, unless its good ending waits for the ledger."""

    kinds = (End, Settle)

    def __init__(self, *, clock_is_steady: bool) -> None:
        self._steady = clock_is_steady
        self._settles_ms: dict[int, int] = {}

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        if isinstance(what, Settle):
            self._settles_ms[play.number] = now_ms
        elif isinstance(what, End) and self._steady:
            asked, waited_ms = play.request, what.outcome.report.waited_ms
            due_ms = min(asked.deadline_ms + waited_ms, asked.ends_ms or asked.deadline_ms)
            due_ms = max(due_ms, self._settles_ms.get(play.number, 0))
            is_answer = isinstance(what.outcome, Finished) or now_ms <= due_ms
            ledger = isinstance(what.outcome, Failed) and "ledger" in what.outcome.reason.value
            demand(is_answer or ledger, self, f"ended {now_ms - due_ms} ms after its deadline")
