"""`escalade watch`: the event feed of a running server, line by line as it comes."""

from collections.abc import Iterable, Iterator

import click
from google.protobuf.json_format import MessageToDict
from rich.text import Text

import escalade
from escalade.v1.escalation_pb2 import AlertKind, EscalationReason, VerdictClass
from escalade.v1.operations_service_pb2 import FeedEntry, FeedKind, WatchEventsResponse
from escalade_server.cli import output
from escalade_server.cli.client import DEFAULT_TARGET, connect, refused
from escalade_server.cli.output import CommandError, Exit

START, NOWHERE = "start", "0.0"
"""What is typed for the begin of what is kept; no feed has the other as a cursor."""
TIME = "%m-%d %H:%M:%S"
KINDS = tuple(
    name.removeprefix("FEED_KIND_").lower().replace("_", "-")
    for name in FeedKind.DESCRIPTOR.values_by_name
    if not name.endswith("UNSPECIFIED")
)
STYLES = {"alert": "yellow", "escalated": "cyan", "task_ended": "dim"}


@click.command("watch")
@click.option("--target", default=DEFAULT_TARGET, show_default=True, help="Where the server is.")
@click.option("--since", metavar="CURSOR", help="Begin after this entry, or at the `start`.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only these kinds.")
@click.option("--layer", "layers", multiple=True, metavar="NAME", help="Only these layers.")
@output.json_option
def command(
    *,
    target: str,
    since: str | None,
    kinds: tuple[str, ...],
    layers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show escalations, fallbacks, alerts, cooldowns, waits and reports as they come."""
    out, cursor = output.console(), ""
    wanted = [FeedKind.Value(f"FEED_KIND_{kind.upper().replace('-', '_')}") for kind in kinds]
    try:
        with connect(target) as client:
            begin = NOWHERE if since == START else since or ""
            for response in _from(client, begin, wanted, layers, skips=since == START):
                cursor = response.cursor
                for entry in response.entries:
                    if as_json:
                        output.print_json_line(MessageToDict(entry))
                    else:
                        out.print(_line(entry), soft_wrap=True)
    except KeyboardInterrupt:
        return
    except escalade.CursorExpired as error:
        raise CommandError(f"{error.message}: `--since start` begins there.") from error
    except escalade.EscaladeError as error:
        told = refused(error, target)
        if cursor:
            words = f"{told.message} Go on with --since {cursor}."
            raise CommandError(words, Exit(told.exit_code)) from error
        raise told from error


def _from(
    client: escalade.Client,
    cursor: str,
    kinds: list[FeedKind.ValueType],
    layers: tuple[str, ...],
    *,
    skips: bool,
) -> Iterator[WatchEventsResponse]:
    """Watch from a cursor; with ``skips`` from the oldest that is kept, if that one is not."""
    try:
        yield from client.watch(cursor, kinds=kinds, layers=layers)
    except escalade.CursorExpired as error:
        oldest = error.metadata.get("oldest")
        if not skips or not oldest:
            raise
        yield from client.watch(oldest, kinds=kinds, layers=layers)


def _line(entry: FeedEntry) -> Text:
    """Write an entry as one line: when, what, for whom, and where to go on."""
    kind = entry.WhichOneof("kind") or ""
    line = Text(f"{entry.time.ToDatetime():{TIME}} ", "dim")
    line.append(f"{kind.replace('_', ' '):<20} ", STYLES.get(kind, ""))
    line.append("; ".join(part for part in _words(entry, kind) if part))
    whose = " ".join(part for part in (entry.agent, entry.request_id) if part)
    return line.append(f"  [{whose}]" if whose else "", "dim").append(f"  {entry.cursor}", "dim")


def _words(entry: FeedEntry, kind: str) -> Iterable[str]:
    match kind:
        case "escalated":
            told = entry.escalated
            reason = _word(EscalationReason.Name(told.reason), "ESCALATION_REASON_")
            return f"{told.from_layer} → {told.to_layer} ({reason})", told.detail
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


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()
