"""What happened in a run, kept as it is and put into words only when somebody reads it."""

from typing import NamedTuple

from escalade_server.core.commands import (
    Announce,
    CallModel,
    Command,
    Deliver,
    End,
    Queue,
    ReportHealth,
    Reserve,
    SetBench,
    Settle,
)
from escalade_server.core.events import AttemptFailed, ChunkArrived, Event, Reserved, Started
from escalade_server.core.facts import Escalated, Fact, Failed, Fallback, Selected


class Line(NamedTuple):
    """One step: instant of the run and of the wall, task, what it was told, what it ordered."""

    at_us: int
    wall_ms: int
    number: int
    event: Event
    commands: tuple[Command, ...]


def worded(line: Line) -> str:
    """Put one step into words."""
    at_us, _, number, event, commands = line
    orders = "; ".join(_command(command) for command in commands)
    return f"{at_us / 1e6:12.6f} s  task {number:<4} {_event(event)} -> {orders or 'nothing'}"


def _event(event: Event) -> str:
    match event:
        case Started():
            return "Started"
        case Reserved(attempt, position):
            return f"Reserved {attempt} at model {position}"
        case ChunkArrived(attempt, deltas, finish, usage):
            end = f", {finish.reason.value}" if finish else ""
            return f"Chunk {attempt}: {len(deltas)} deltas{end}{', usage' if usage else ''}"
        case AttemptFailed(attempt, failure):
            return f"AttemptFailed {attempt}: {failure.cls.value}"
        case _:
            return type(event).__name__


def _command(command: Command) -> str:
    match command:
        case Reserve():
            models = ", ".join(c.model.key for c in command.candidates)
            return f"Reserve {command.attempt} of {models}"
        case CallModel(attempt, candidate):
            return f"CallModel {attempt} {candidate.model.key}"
        case Deliver(attempt, deltas):
            return f"Deliver {attempt}: {len(deltas)}"
        case Settle():
            held = " in doubt" if command.hold_until_ms else ""
            return f"Settle {command.attempt}: {command.nanos} nanos, {command.basis.value}{held}"
        case SetBench(key, bench):
            return f"SetBench {key} to {bench.until_ms} ({bench.cls.value})"
        case ReportHealth(provider, ok):
            return f"ReportHealth {provider} {'+' if ok else '-'}"
        case Announce(fact):
            return _fact(fact)
        case Queue(waiting):
            return f"Queue until {waiting.earliest_ms} ({waiting.reason.value})"
        case End(outcome):
            why = (
                f" {outcome.reason.value}: {outcome.detail}" if isinstance(outcome, Failed) else ""
            )
            return f"End {type(outcome).__name__}{why}"
        case _:
            return f"{type(command).__name__} {command.attempt}"


def _fact(fact: Fact) -> str:
    match fact:
        case Escalated():
            return f"Escalated {fact.from_layer} -> {fact.to_layer} ({fact.reason.value})"
        case Selected():
            return f"Selected {fact.attempt} {fact.model.key}"
        case Fallback():
            return f"Fallback to {fact.to_model.key}"
        case _:
            return type(fact).__name__
