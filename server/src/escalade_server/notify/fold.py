"""Folds storms: what has the same cause is one notice with a count.

The first of a cause opens its window. What comes within ``GATHER_MS`` is sent together, what comes
later in the hour is counted and sent, if there is any, when the hour is over. Alerts about a mark
or a layer are told once by the store itself; their cause is of their own window.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from escalade_server.core.facts import AlertKind, EscalationKind
from escalade_server.core.failure import HOUR_MS
from escalade_server.core.standing import VerdictClass
from escalade_server.engine.news import (
    AlertNews,
    Entry,
    EscalatedNews,
    ReportNews,
    StrategyNews,
    WaitNews,
)
from escalade_server.engine.ports import Notice

GATHER_MS = 2_000
WINDOW_MS = HOUR_MS
CAUSES_MAX = 1_000
"""More causes at a time are folded by their kind."""
MONEY = frozenset({"alert.budget", "alert.quota", "alert.plan"})
"""Kinds that ``escalation_logic.budget_alert`` is about."""
WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Words:
    """What one entry says to people; of one ``cause`` the first speaks for all."""

    kind: str
    cause: str
    text: str
    facts: Mapping[str, str | int]


def words_of(entry: Entry) -> Words | None:
    """Say it to people; None: it is not for them.

    Of an escalation only names and reason are told: the details quote providers.
    """
    news = entry.news
    match news:
        case AlertNews():
            facts: dict[str, str | int] = {"layer": news.place.layer, "model": news.place.model}
            facts["provider"] = news.place.provider
            cause = f"{news.kind.value} {news.place.layer} {news.place}"
            if news.quota is not None:
                quota = news.quota
                facts |= {
                    "quota": quota.name, "limit": quota.limit, "spent": quota.spent,
                    "unit": quota.unit.value, "resets_ms": quota.resets_ms,
                }  # fmt: skip
                cause += f" {quota.name} {quota.resets_ms} {news.percent}"
            if news.percent is not None:
                facts["percent"] = news.percent
            text = news.detail
            if news.kind is AlertKind.BUDGET or news.kind is AlertKind.QUOTA:
                text = f"{news.percent} % used: {text}"
            elif news.kind is AlertKind.PLAN:
                text = f"the planned cost of the month is reached: {text}"
            facts = {name: value for name, value in facts.items() if value != ""}
            return Words(f"alert.{news.kind.value}", cause, text, facts)
        case EscalatedNews() if news.kind is not EscalationKind.INITIAL:
            names: dict[str, str | int] = {"from_layer": news.from_layer, "to_layer": news.to_layer}
            return Words(
                "escalated",
                f"escalated {news.from_layer} {news.to_layer} {news.reason.value}",
                f"escalated from {news.from_layer} to {news.to_layer}: {news.reason.value}",
                {**names, "reason": news.reason.value},
            )
        case WaitNews(waiting=True, notify=True) if news.reason is not VerdictClass.HELD:
            earliest: dict[str, str | int] = {"earliest_ms": news.earliest_ms, "rule": news.rule}
            text = f"a task waits for capacity ({news.reason.value}): {news.rule}"
            # The rule says how much is used, too: it reads otherwise for every task.
            cause = f"waiting {news.reason.value} {news.rule.partition(': ')[0]}"
            return Words(WAITING, cause, text, earliest)
        case ReportNews():
            text = f"the usage report of {news.day}: {news.summary or 'it is ready'}"
            return Words("report", f"report {news.day}", text, {"day": news.day})
        case StrategyNews(applied=False):
            text = f"the strategy file was refused, the old one stays: {'; '.join(news.findings)}"
            return Words("strategy.refused", "strategy", text, {})
        case _:
            return None


@dataclass(slots=True)
class _Cause:
    """One cause in its window: ``count`` since the last notice, ``number`` the first of them."""

    words: Words
    due_ms: int
    since_ms: int
    number: int
    count: int
    again: bool = False


class Fold:
    """Takes entries, gives notices. Pure: time is an argument."""

    def __init__(self, source: str) -> None:
        """``source`` goes into the ids of notices: numbers of entries are unique within it."""
        self._source = source
        self._causes: dict[str, _Cause] = {}

    def take(self, entry: Entry, now_ms: int) -> None:
        """Count an entry, if it is for people."""
        words = words_of(entry)
        if words is None:
            return
        key = words.cause
        if key not in self._causes and len(self._causes) >= CAUSES_MAX:
            key = words.kind
        known = self._causes.get(key)
        if known is None:
            due_ms = now_ms + GATHER_MS
            self._causes[key] = _Cause(words, due_ms, entry.at_ms, entry.number, 1)
        elif known.count:
            known.count += 1
        else:
            known.words, known.since_ms, known.number = words, entry.at_ms, entry.number
            known.count = 1

    def recall(self, entry: Entry) -> None:
        """Learn of an entry that a predecessor took: its cause was told, or is counted."""
        words, at_ms = words_of(entry), entry.at_ms
        if words is None:
            return
        known = self._causes.get(words.cause)
        if known is None and len(self._causes) >= CAUSES_MAX:
            return
        if known is None or at_ms >= known.due_ms:
            due_ms = at_ms + GATHER_MS + WINDOW_MS
            told = _Cause(words, due_ms, at_ms, entry.number, 0, again=True)
            self._causes[words.cause] = told
        elif at_ms >= known.due_ms - WINDOW_MS:  # after the notice of the first
            self.take(entry, at_ms)

    def due_ms(self) -> int | None:
        """Say when ``notices`` has something to do next; None: not by time alone."""
        return min((cause.due_ms for cause in self._causes.values()), default=None)

    def unsent(self) -> int | None:
        """Answer the first entry whose cause no notice has told yet; None: all are told."""
        causes = self._causes.values()
        return min((c.number for c in causes if c.count and not c.again), default=None)

    def notices(self, now_ms: int) -> Iterator[tuple[int, Notice]]:
        """Give what is due, each with the number of its first entry."""
        for key, cause in list(self._causes.items()):
            if now_ms < cause.due_ms:
                continue
            if not cause.count:
                del self._causes[key]
                continue
            yield cause.number, self._notice(cause, now_ms)
            cause.count, cause.again, cause.due_ms = 0, True, now_ms + WINDOW_MS

    def _notice(self, cause: _Cause, now_ms: int) -> Notice:
        words, text = cause.words, cause.words.text
        if cause.count > 1:
            text += f" ({cause.count:,} {'more ' if cause.again else ''}times)"
        id_ = f"{self._source}.{cause.number}"
        return Notice(id_, words.kind, text, now_ms, cause.since_ms, cause.count, words.facts)
