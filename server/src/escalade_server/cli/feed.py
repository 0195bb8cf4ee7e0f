"""The event feed on a terminal: each entry in one line, and a watch that outlives breaks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from rich.text import Text

import escalade
from escalade.v1.escalation_pb2 import AlertKind, Escalated, EscalationReason, VerdictClass
from escalade.v1.operations_service_pb2 import FeedEntry, FeedKind, WatchEventsResponse
from escalade_server.cli import output

START, NOWHERE = "start", "0.0"
"""What is typed for the begin of what is kept; no feed has the other as a cursor."""
TIME = "%m-%d %H:%M:%S"
STYLES = {"alert": "yellow", "escalated": "cyan", "task_ended": "dim"}
SHORT = {
    "model_state_changed": "model",
    "wait_changed": "wait",
    "report_ready": "report",
    "strategy_reloaded": "strategy",
}
AGAIN_S, AGAIN_MOST_S = 0.5, 15.0
"""When a watch that broke is begun again: doubled each time, up to the second."""
BREAKS = (escalade.TransportError, escalade.Draining, escalade.LedgerUnavailable)
"""What ends a watch and is over by itself: the server went away, restarts, or lost its store."""


async def follow(
    client: escalade.AsyncClient,
    cursor: str,
    told: Callable[[str], None],
    *,
    kinds: Sequence[FeedKind.ValueType] = (),
    layers: Sequence[str] = (),
) -> AsyncIterator[WatchEventsResponse]:
    """Watch from a cursor, ``START``, or from now; after a break go on where it was.

    ``told`` hears what happens to the watch itself.

    Raises:
        CursorExpired: what follows the cursor that was given is not kept any more.
        EscaladeError: the first try fails, or the server does not want to.
    """
    skips, is_new, pause_s = cursor == START, True, AGAIN_S
    cursor = NOWHERE if skips else cursor
    while True:
        try:
            async for response in client.watch(cursor, kinds=kinds, layers=layers):
                if not is_new and pause_s > AGAIN_S:
                    told("the feed goes on")
                cursor, is_new, pause_s = response.cursor, False, AGAIN_S
                yield response
        except escalade.CursorExpired as error:
            oldest = error.metadata.get("oldest")
            if not oldest or (is_new and not skips):
                raise
            if not is_new:
                told("some of the feed is not kept any more: what follows is the rest")
            cursor, skips = oldest, False
            continue
        except BREAKS as error:
            if is_new:
                raise
            why = error.message
        else:
            why = "the server ended it"
        if pause_s == AGAIN_S:
            told(f"the feed broke off, trying again ({why})")
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, AGAIN_MOST_S)


def line(entry: FeedEntry) -> Text:
    """Write an entry as one line: when, what, for whom, and where to go on."""
    kind = entry.WhichOneof("kind") or ""
    made = Text().append(f"{entry.time.ToDatetime():{TIME}} ", "dim")
    made.append(f"{kind.replace('_', ' '):<20} ", _style(entry, kind))
    made.append("; ".join(part for part in _words(entry, kind) if part))
    whose = " ".join(part for part in (entry.agent, entry.request_id) if part)
    made.append(f"  [{whose}]" if whose else "", "dim")
    return made.append(f"  {entry.cursor}", "dim")


def short(entry: FeedEntry) -> Text:
    """Write an entry for a screen that cuts lines: what matters most comes first."""
    kind = entry.WhichOneof("kind") or ""
    made = Text().append(f" {entry.time.ToDatetime():%H:%M:%S} ", "dim")
    word = SHORT.get(kind, kind)
    if kind == "task_ended":
        word = "answered" if entry.task_ended.answered else "failed"
    made.append(f"{word:<9} ", _style(entry, kind))
    made.append(f"{entry.request_id} " if entry.request_id else "", "bold")
    return made.append("; ".join(part for part in _short_words(entry, kind) if part))


def _style(entry: FeedEntry, kind: str) -> str:
    failed = kind == "task_ended" and not entry.task_ended.answered
    return "red" if failed else STYLES.get(kind, "")


def _short_words(entry: FeedEntry, kind: str) -> Iterable[str]:
    match kind:
        case "escalated":
            told = entry.escalated
            return f"{_reason(told)}: {told.from_layer} → {told.to_layer}", told.detail
        case "task_ended":
            ended = entry.task_ended
            model, cost = ended.model.model.rpartition("/")[2], ended.cost.charged_nano_usd
            by = f"by {model}, {output.usd(cost)}" if ended.answered else ""
            return by, ended.story
        case _:
            return _words(entry, kind)


def _words(entry: FeedEntry, kind: str) -> Iterable[str]:
    match kind:
        case "escalated":
            told = entry.escalated
            return f"{told.from_layer} → {told.to_layer} ({_reason(told)})", told.detail
        case "fallback":
            turn = entry.fallback
            return f"{turn.from_target.model} → {turn.to_target.model}", turn.detail
        case "alert":
            return _word(AlertKind.Name(entry.alert.kind), "ALERT_KIND_"), entry.alert.detail
        case "model_state_changed":
            state = entry.model_state_changed
            target = state.status.target
            name = "/".join(p for p in (target.provider, target.account, target.model) if p)
            until = ""
            if state.status.HasField("until"):
                until = f"until {state.status.until.ToDatetime():{TIME}} UTC"
            return f"{name}: {state.detail}", until
        case "wait_changed":
            wait = entry.wait_changed
            why = _word(VerdictClass.Name(wait.waiter.reason), "VERDICT_CLASS_")
            return ("waits" if wait.waiting else "waits no longer", why, wait.waiter.rule)
        case "report_ready":
            return (f"the report of {entry.report_ready.day}",)
        case "strategy_reloaded":
            what = entry.strategy_reloaded
            said = "in force" if what.applied else "refused, the old one stays"
            return (said, *(finding.message for finding in what.findings))
        case "task_ended":
            return ("answered" if entry.task_ended.answered else "failed", entry.task_ended.story)
        case _:
            return ("an entry of a newer server",)


def _reason(told: Escalated) -> str:
    return _word(EscalationReason.Name(told.reason), "ESCALATION_REASON_")


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()
