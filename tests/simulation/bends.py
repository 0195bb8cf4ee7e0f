"""Deliberate mistakes, in the history that checkers see or in the code that makes it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from escalade_server.core import (
    assess,
    breaker,
    calling,
    ledger,
    need,
    oddities,
    policy,
    session,
    settlement,
    start,
    waits,
)
from escalade_server.core.attempt import Live, Over
from escalade_server.core.breaker import Breaker
from escalade_server.core.calling import Calling
from escalade_server.core.catalog import Catalog, Model
from escalade_server.core.commands import Announce, Command, Deliver, End, Settle
from escalade_server.core.events import ChunkArrived, Delta, TextDelta
from escalade_server.core.experience import Experience
from escalade_server.core.facts import Escalated, Failed, Retracted
from escalade_server.core.failure import Charge, Failure
from escalade_server.core.ledger import Amounts
from escalade_server.core.standing import Balance
from escalade_server.core.task import Basis, Usage
from escalade_server.engine.health import Health
from escalade_server.simulation.agenda import Agenda
from escalade_server.simulation.books import Books, Reservation
from escalade_server.simulation.driver import Play
from escalade_server.simulation.store import Store

Commands = tuple[Command, ...]
History = Callable[[Commands, int], Commands]
"""Bends what a cascade has ordered, before anybody sees it."""
Code = Callable[[pytest.MonkeyPatch], None]


def _is(command: Command, *facts: type[object]) -> bool:
    return isinstance(command, Announce) and isinstance(command.fact, facts)


def end_twice(commands: Commands, _: int) -> Commands:
    return (*commands, *[c for c in commands if isinstance(c, End)])


def silent_change(commands: Commands, _: int) -> Commands:
    return tuple(c for c in commands if not _is(c, Escalated))


def double_change(commands: Commands, _: int) -> Commands:
    return tuple(c for c in commands for _ in range(2 if _is(c, Escalated) else 1))


def no_retraction(commands: Commands, _: int) -> Commands:
    return tuple(c for c in commands if not _is(c, Retracted))


def lost_text(commands: Commands, _: int) -> Commands:
    def bent(command: Command) -> Command:
        if isinstance(command, Deliver):
            deltas = command.deltas
            if any(isinstance(d, TextDelta) and d.text.endswith(".1 ") for d in deltas):
                return Deliver(command.attempt, ())
        return command

    return tuple(map(bent, commands))


def never_settled(commands: Commands, _: int) -> Commands:
    return tuple(c for c in commands if not isinstance(c, Settle))


def settled_twice(commands: Commands, _: int) -> Commands:
    return tuple(c for c in commands for _ in range(2 if isinstance(c, Settle) else 1))


def past_instant(commands: Commands, now_ms: int) -> Commands:
    def bent(command: Command) -> Command:
        if isinstance(command, End) and isinstance(command.outcome, Failed):
            return End(command.outcome._replace(retry_at_ms=now_ms - 1))
        return command

    return tuple(map(bent, commands))


def wrong_sum(commands: Commands, _: int) -> Commands:
    def bent(command: Command) -> Command:
        if isinstance(command, Settle):
            return replace(command, nanos=command.nanos + 1)
        return command

    return tuple(map(bent, commands))


def circuits_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Health, "circuits", lambda self, now_ms: {})


def late_grant(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Play, "_in_time", lambda self, order, answer: answer)


def cooldown_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policy, "_health", lambda model, standing, agent, now_ms: None)


def limits_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policy, "limits", lambda model, layer, wanted: None)


def slow_timer(patch: pytest.MonkeyPatch) -> None:
    after = Agenda.after

    def later(self: Agenda, delay_us: int, call: Callable[[], None]) -> None:
        is_timer = getattr(call, "__qualname__", "").startswith("Play._arm")
        after(self, delay_us * 2 if is_timer else delay_us, call)

    patch.setattr(Agenda, "after", later)


def no_timer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Play, "_arm", lambda self, wake_ms, now_ms: None)


def reserve_without_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger, "denial", lambda candidate, balances: None)


def holds_not_released(patch: pytest.MonkeyPatch) -> None:
    def keep(balance: Balance, reserved: int, used: int) -> Balance:
        return balance._replace(spent=balance.spent + used)

    patch.setattr(ledger, "settle", keep)


def booked_twice(patch: pytest.MonkeyPatch) -> None:
    book = Books._book

    def twice(self: Books, known: Reservation, used: Amounts, now_ms: int) -> None:
        book(self, known, used, now_ms)
        book(self, known, used, now_ms)

    patch.setattr(Books, "_book", twice)


def cut_is_answer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(calling, "_CUT_SHORT", None)


def layer_not_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Experience, "reject", lambda self, layer: None)


def cut_for_nothing(patch: pytest.MonkeyPatch) -> None:
    nothing = settlement.Booking(1, Usage(), 0, Basis.ESTIMATED)
    patch.setattr(settlement, "_counted", lambda live, wanted: nothing)


def billed_by_half(patch: pytest.MonkeyPatch) -> None:
    whole = oddities.list_nanos
    patch.setattr(settlement, "list_nanos", lambda live, usage: whole(live, usage) // 2)


def doubt_forgotten(patch: pytest.MonkeyPatch) -> None:
    broken = settlement.broken

    def sure(live: Live, wanted: need.Need, charge: Charge, *, sent: bool) -> settlement.Booking:
        booking = broken(live, wanted, charge, sent=sent)
        return settlement.NOT_SENT if booking.hold else booking

    patch.setattr(settlement, "broken", sure)


def bound_too_low(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(need, "worst_cost_nanos", lambda put_in, put_out, price: 0)


def leak_of_holds(patch: pytest.MonkeyPatch) -> None:
    def nothing(self: Store, order: Settle, done: Callable[[bool], None]) -> None:
        self._agenda.after(1, lambda: done(True))  # noqa: FBT003 - as the store answers

    patch.setattr(Store, "settle", nothing)


def answered_before_durable(patch: pytest.MonkeyPatch) -> None:
    settle = Store.settle

    def hasty(self: Store, order: Settle, done: Callable[[bool], None]) -> None:
        self._agenda.after(0, lambda: done(True))  # noqa: FBT003 - as the store answers
        settle(self, order, lambda durable: None)

    patch.setattr(Store, "settle", hasty)


def leak_on_cancel(patch: pytest.MonkeyPatch) -> None:
    def forget(self: Calling, now_ms: int, out: list[Command]) -> None:
        self.live = None

    patch.setattr(Calling, "drop", forget)


def gates_leak(patch: pytest.MonkeyPatch) -> None:
    take = Live.take

    def leaky(self: Live, chunk: ChunkArrived, now_ms: int) -> tuple[Delta, ...]:
        told = take(self, chunk, now_ms)
        return told if self.demands is None else self.held()

    patch.setattr(Live, "take", leaky)


def late_news_accepted(patch: pytest.MonkeyPatch) -> None:
    end = Calling._end

    def gullible(self: Calling, live: Live, failure: Failure | None, out: list[Command]) -> Over:
        over = end(self, live, failure, out)
        self.live = live
        return over

    patch.setattr(Calling, "_end", gullible)


def waits_unasked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(waits, "allowed", lambda rules, request, walk: True)


def breaker_never_closes(patch: pytest.MonkeyPatch) -> None:
    step = breaker.step

    def stubborn(state: Breaker, **told: Any) -> Breaker:
        return step(state, **(told | {"ok": told["ok"] and not state.openings}))

    patch.setattr(breaker, "step", stubborn)


def breaker_backs_off_for_minutes(patch: pytest.MonkeyPatch) -> None:
    step = breaker.step

    def patient(state: Breaker, **told: Any) -> Breaker:
        return step(state, **(told | {"open_ms_max": 300_000}))

    patch.setattr(breaker, "step", patient)


def circuits_without_effect(patch: pytest.MonkeyPatch) -> None:
    cooldown_ignored(patch)
    late_grant(patch)


def session_raised_for_nothing(patch: pytest.MonkeyPatch) -> None:
    def begin(step: session.Step, room: int) -> session.Turn:
        return replace(session.begin(step, room), raised=room)

    patch.setattr(start, "begin", begin)


def session_beyond_its_limits(patch: pytest.MonkeyPatch) -> None:
    def step_up(
        catalog: Catalog, wanted: need.Need, base: int, step: session.Step
    ) -> tuple[int, session.Turn, tuple[tuple[Model, ...], ...]]:
        return start.step_up(catalog, replace(wanted, highest=99), base, step)

    patch.setattr(assess, "step_up", step_up)


def session_raised_in_silence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(assess, "note_of", lambda _: "")
