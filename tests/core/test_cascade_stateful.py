"""Any order of news, and what must hold after every step of it (style 4)."""

from collections import Counter as Tally

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from escalade_server.core.commands import (
    Announce,
    CallModel,
    Command,
    Deliver,
    End,
    Reserve,
    Settle,
)
from escalade_server.core.events import (
    AttemptFailed,
    ChunkArrived,
    Finish,
    Repeated,
    ReservationDenied,
    Reserved,
    Settled,
    SettleFailed,
    StoreFailed,
    StreamEnded,
    TextDelta,
)
from escalade_server.core.facts import ErrorReason, Escalated, Failed, Finished, Retracted, Selected
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.rules import Rules
from escalade_server.core.standing import Balance, Bench, Circuit, CircuitState, Denial, Standing
from escalade_server.core.task import FinishReason, Request, Usage
from tests.core.builders import DAY, T0, three_layers
from tests.core.draws import requests, rules_of_strategies
from tests.core.play import Play

FAILURES = [c for c in FailureClass if c is not FailureClass.CANCELLED]
NO_TASK = (ErrorReason.ALREADY_ANSWERED, ErrorReason.REQUEST_INVALID)


class AnyOrder(RuleBasedStateMachine):
    """Feeds news in any order; ``pending`` holds what the engine would still answer."""

    @initialize(request=requests, rules=rules_of_strategies, full=st.booleans(), down=st.booleans())
    def start(self, request: Request, rules: Rules, *, full: bool, down: bool) -> None:
        self.request, self.limits = request, rules
        self.catalog = three_layers(rules)
        self.play = Play(self.catalog, request)
        self.seen = 0
        self.reserving: Reserve | None = None
        self.unsettled: dict[int, Settle] = {}
        self.granted: dict[str, int] = {}
        self.settled: Tally[str] = Tally()
        self.called: dict[int, CallModel] = {}
        balances = {"requests/day:openai/default/mini": Balance("d", 50, 0, DAY)} if full else {}
        circuits = {"google": Circuit(CircuitState.OPEN, T0 + 60_000)} if down else {}
        self.play.start(Standing(balances, {}, circuits))
        self.look()

    def look(self) -> None:
        """Take in what was ordered since the last look."""
        new = self.play.log[self.seen :]
        self.seen = len(self.play.log)
        for command in new:
            if isinstance(command, Reserve):
                self.reserving = command
            elif isinstance(command, CallModel):
                self.check_call(command)
                self.called[command.attempt] = command
            elif isinstance(command, Settle):
                assert command.reservation_id in self.granted, "only what was granted is settled"
                self.settled[command.reservation_id] += 1
                self.unsettled[command.attempt] = command

    def check_call(self, call: CallModel) -> None:
        model, standing = call.candidate.model, self.play.standing
        circuit = standing.circuits.get(model.provider)
        assert circuit is None or circuit.until_ms <= self.play.now, "no call on an open circuit"
        limits = self.request.constraints
        if limits.free_only or limits.spend_limit_nanos == 0:
            assert not model.is_paid, "free-only never reaches a model that costs money"

    @precondition(lambda self: self.reserving is not None)
    @rule(data=st.data())
    def store_grants(self, data: st.DataObject) -> None:
        order = self.reserving
        assert order is not None
        self.reserving = None
        chosen = data.draw(st.sampled_from(order.candidates))
        self.granted[order.reservation_id] = order.attempt
        self.play.feed(Reserved(order.attempt, chosen.model.position))
        self.look()

    @precondition(lambda self: self.reserving is not None)
    @rule(held=st.booleans())
    def store_denies(self, *, held: bool) -> None:
        order = self.reserving
        assert order is not None
        self.reserving = None
        denials = tuple(
            Denial(
                c.model.position,
                c.model.counters[0].key,
                Balance("d", 50, 0, DAY),
                1,
                held_only=held,
                never_fits=False,
            )
            for c in order.candidates
        )
        self.play.feed(ReservationDenied(order.attempt, denials, self.play.standing))
        self.look()

    @precondition(lambda self: self.reserving is not None)
    @rule()
    def store_fails(self) -> None:
        order = self.reserving
        assert order is not None
        self.reserving = None
        self.granted[order.reservation_id] = order.attempt  # for all the cascade knows
        self.play.feed(StoreFailed(order.attempt, "disk full"))
        self.look()

    @precondition(lambda self: self.reserving is not None)
    @rule()
    def store_repeats(self) -> None:
        order = self.reserving
        assert order is not None
        self.reserving = None
        self.play.feed(Repeated(order.attempt))
        self.look()

    @precondition(lambda self: self.called)
    @rule(data=st.data(), text=st.sampled_from(["", " ", "word"]))
    def chunk(self, data: st.DataObject, text: str) -> None:
        attempt = data.draw(st.sampled_from(sorted(self.called)))
        self.play.feed(ChunkArrived(attempt, (TextDelta(text),)))
        self.look()

    @precondition(lambda self: self.called)
    @rule(data=st.data(), reason=st.sampled_from(FinishReason), usage=st.booleans())
    def finish(self, data: st.DataObject, reason: FinishReason, *, usage: bool) -> None:
        attempt = data.draw(st.sampled_from(sorted(self.called)))
        reported = Usage(10, 5) if usage else None
        self.play.feed(ChunkArrived(attempt, (), Finish(reason), reported))
        self.look()

    @precondition(lambda self: self.called)
    @rule(data=st.data())
    def stream_ends(self, data: st.DataObject) -> None:
        self.play.feed(StreamEnded(data.draw(st.sampled_from(sorted(self.called)))))
        self.look()

    @precondition(lambda self: self.called)
    @rule(data=st.data(), cls=st.sampled_from(FAILURES), reset=st.sampled_from([None, 500, 60_000]))
    def attempt_fails(self, data: st.DataObject, cls: FailureClass, reset: int | None) -> None:
        attempt = data.draw(st.sampled_from(sorted(self.called)))
        at = None if reset is None else self.play.now + reset
        self.play.feed(AttemptFailed(attempt, Failure(cls, "broke", reset_at_ms=at)))
        self.look()

    @precondition(lambda self: self.unsettled)
    @rule(durable=st.booleans())
    def settlement_ends(self, *, durable: bool) -> None:
        attempt = next(iter(self.unsettled))
        del self.unsettled[attempt]
        event = Settled(attempt, self.play.standing) if durable else SettleFailed(attempt, "disk")
        self.play.feed(event)
        self.look()

    @rule(ms=st.sampled_from([1, 25, 1_000, 10_000, 60_000]))
    def time_passes(self, ms: int) -> None:
        self.play.passes(ms)
        self.look()

    @rule()
    def caller_leaves(self) -> None:
        self.play.leaves()
        self.look()

    @rule(key=st.sampled_from(["openai/default", "google/default/flash", "minimax"]))
    def someone_else_benches(self, key: str) -> None:
        old = self.play.standing
        bench = Bench(self.play.now + 30_000, FailureClass.QUOTA_WINDOW, "by another task")
        self.play.standing = Standing(old.balances, {**old.benches, key: bench}, old.circuits)

    @invariant()
    def one_ending_and_nothing_after_it(self) -> None:
        ends = [i for i, c in enumerate(self.play.log) if isinstance(c, End)]
        assert len(ends) <= 1
        if ends:
            tail = self.play.log[ends[0] + 1 :]
            quiet: tuple[type[Command], ...] = (Announce, Deliver, Reserve, CallModel)
            assert not [c for c in tail if isinstance(c, quiet)]

    @invariant()
    def reservations_are_settled_once(self) -> None:
        assert all(times == 1 for times in self.settled.values())
        if self.play.cascade.closed:
            assert set(self.settled) == set(self.granted)

    @invariant()
    def a_task_is_counted_once(self) -> None:
        rode = [c.tally for c in self.play.log if isinstance(c, Settle | End) and c.tally]
        assert len(rode) <= 1
        outcome = self.play.outcome
        repeated = isinstance(outcome, Failed) and outcome.reason in NO_TASK
        if outcome is not None and not repeated:
            assert len(rode) == 1
            if isinstance(outcome, Finished):
                model = outcome.report.answered
                assert model is not None
                assert (rode[0].layer, rode[0].model) == (model.layer, model.key)
                assert len(rode[0].escalations) == len(outcome.report.layer_path) - 1

    @invariant()
    def nothing_begins_after_the_deadline(self) -> None:
        assert all(at < self.request.deadline_ms for at in self.play.reserved_at)

    @invariant()
    def attempts_are_bounded(self) -> None:
        assert len(self.called) <= self.limits.attempts_max

    @invariant()
    def every_change_of_layer_is_announced_once(self) -> None:
        at = self.catalog.layers[0].name
        for fact in self.play.facts:
            if isinstance(fact, Escalated):
                assert fact.from_layer == at
                assert fact.to_layer != at
                at = fact.to_layer
            elif isinstance(fact, Selected):
                assert fact.model.layer == at

    @invariant()
    def texts_are_never_spliced(self) -> None:
        speaking: int | None = None
        for command in self.play.log:
            if isinstance(command, Deliver):
                assert speaking in (None, command.attempt)
                speaking = command.attempt
            elif isinstance(command, Announce) and isinstance(command.fact, Retracted):
                assert speaking == command.fact.attempt
                speaking = None

    @invariant()
    def a_finished_task_has_its_answer(self) -> None:
        outcome = self.play.outcome
        if isinstance(outcome, Finished):
            report = outcome.report
            assert report.answered is not None
            assert report.layer_path[-1] == report.answered.layer
            assert report.story

    @invariant()
    def it_wakes_by_itself_or_waits_for_news(self) -> None:
        cascade = self.play.cascade
        if not cascade.closed and cascade.wake_at_ms is None:
            assert self.reserving is not None or self.unsettled, "stuck for ever"


def test_any_order_of_news() -> None:
    run_state_machine_as_test(AnyOrder)
