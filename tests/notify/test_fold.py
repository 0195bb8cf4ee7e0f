"""What has one cause is one notice; what people are told says nothing of a prompt."""

from escalade_server.core.catalog import Period, Unit
from escalade_server.core.facts import AlertKind, EscalationKind, EscalationReason
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import VerdictClass
from escalade_server.engine.news import (
    AlertNews,
    Entry,
    EscalatedNews,
    FallbackNews,
    ModelNews,
    News,
    Place,
    Quota,
    ReportNews,
    StrategyNews,
    TaskNews,
    WaitNews,
)
from escalade_server.engine.ports import Notice
from escalade_server.notify.fold import CAUSES_MAX, GATHER_MS, WINDOW_MS, Fold, words_of

NOW_MS = 1_790_000_000_000
CANARY = "canary-of-a-prompt"


def escalated(to: str = "plan", kind: EscalationKind = EscalationKind.FAILURE) -> EscalatedNews:
    return EscalatedNews("free", to, EscalationReason.RATE_LIMIT, kind, f"quotes {CANARY}")


def entries(*news: News, at_ms: int = NOW_MS, first: int = 1) -> list[Entry]:
    return [Entry(at_ms, each, number=first + place) for place, each in enumerate(news)]


def told(fold: Fold, now_ms: int) -> list[Notice]:
    return [notice for _, notice in fold.notices(now_ms)]


def test_a_storm_of_a_thousand_is_one_notice_with_its_count() -> None:
    fold = Fold("f")
    for entry in entries(*[escalated()] * 1_000):
        fold.take(entry, NOW_MS)
    assert told(fold, NOW_MS + GATHER_MS - 1) == []
    [notice] = told(fold, NOW_MS + GATHER_MS)

    assert notice.count == 1_000
    assert notice.text == "escalated from free to plan: rate_limit (1,000 times)"
    assert notice.id == "f.1"
    assert told(fold, NOW_MS + WINDOW_MS - 1) == []


def test_what_comes_later_in_the_hour_is_told_once_at_its_end() -> None:
    fold = Fold("f")
    for late in range(1_000):
        at_ms = NOW_MS + late * 1_000
        for entry in entries(escalated(), at_ms=at_ms, first=late + 1):
            fold.take(entry, at_ms)
        if late == 2:
            [first] = told(fold, at_ms)
            assert first.count == 3
    end_ms = NOW_MS + GATHER_MS + WINDOW_MS
    [notice] = told(fold, end_ms)

    assert notice.count == 997
    assert notice.text.endswith("(997 more times)")
    assert notice.since_ms == NOW_MS + 3_000
    assert fold.unsent() is None
    assert told(fold, end_ms + WINDOW_MS) == []
    assert fold.due_ms() is None


def test_tasks_that_wait_for_one_model_are_one_cause_however_much_is_used() -> None:
    fold = Fold("f")

    def waits(rule: str, reason: VerdictClass = VerdictClass.MONEY) -> WaitNews:
        return WaitNews(waiting=True, since_ms=1, earliest_ms=2, reason=reason, rule=rule)

    news = [waits(f"gpt: $0.{cents} of $1.00 this month") for cents in range(10, 60)]
    others = waits("glm: $0.90 of $1.00 this month"), waits("gpt: slow", VerdictClass.RATE)
    for entry in entries(*news, *others):
        fold.take(entry, NOW_MS)
    assert [notice.count for notice in told(fold, NOW_MS + GATHER_MS)] == [50, 1, 1]


def test_who_takes_over_tells_of_no_cause_again_and_counts_on() -> None:
    fold = Fold("f")
    hour_ms = NOW_MS + GATHER_MS + WINDOW_MS
    for number, at_ms in enumerate((NOW_MS, NOW_MS + 1, NOW_MS + GATHER_MS, NOW_MS + 9_000), 1):
        for entry in entries(escalated(), at_ms=at_ms, first=number):
            fold.recall(entry)
    for entry in entries(escalated(), escalated("premium"), at_ms=NOW_MS + 10_000, first=5):
        fold.take(entry, NOW_MS + 10_000)
    assert fold.unsent() == 6
    assert [(one.id, one.count) for one in told(fold, NOW_MS + 20_000)] == [("f.6", 1)]
    assert fold.unsent() is None
    assert [(one.id, one.count) for one in told(fold, hour_ms)] == [("f.3", 3)]
    for number, at_ms in ((7, hour_ms), (8, hour_ms + WINDOW_MS - 1)):
        for entry in entries(escalated(), at_ms=at_ms, first=number):
            fold.recall(entry)
    assert told(fold, hour_ms + WINDOW_MS - 1) == []


def test_causes_are_told_apart() -> None:
    fold = Fold("f")
    for entry in entries(escalated(), escalated("premium"), escalated()):
        fold.take(entry, NOW_MS)
    notices = told(fold, NOW_MS + GATHER_MS)
    assert [(notice.id, notice.count) for notice in notices] == [("f.1", 2), ("f.2", 1)]


def test_more_causes_than_there_may_be_are_folded_by_kind() -> None:
    fold = Fold("f")
    for entry in entries(*(escalated(f"layer{n}") for n in range(CAUSES_MAX + 500))):
        fold.take(entry, NOW_MS)
    notices = told(fold, NOW_MS + GATHER_MS)
    assert len(notices) == CAUSES_MAX + 1
    assert sum(notice.count for notice in notices) == CAUSES_MAX + 500


def test_what_is_unsent_is_known_by_its_first_entry() -> None:
    fold = Fold("f")
    assert fold.unsent() is None
    for entry in entries(escalated(), escalated("premium"), first=7):
        fold.take(entry, NOW_MS)
    assert (fold.unsent(), fold.due_ms()) == (7, NOW_MS + GATHER_MS)


def test_who_is_told_what() -> None:
    quota = Quota("mini day", "model", Unit.REQUESTS, Period.DAY, 50, 40, 1, NOW_MS + 1)
    place = Place("free", "openai", "default", "mini")
    rated = VerdictClass.RATE
    said: dict[str, News] = {
        "alert.quota": AlertNews(AlertKind.QUOTA, "mini: 40 of 50", place, 80, quota),
        "alert.plan": AlertNews(AlertKind.PLAN, "the cap", Place("free"), 60, quota),
        "alert.exhausted": AlertNews(AlertKind.EXHAUSTED, "no model", Place("free")),
        "escalated": escalated(),
        "waiting": WaitNews(
            waiting=True, since_ms=1, earliest_ms=2, reason=rated, rule="50 of 50 today"
        ),
        "report": ReportNews("2026-11-22", "$1.20"),
        "strategy.refused": StrategyNews(
            applied=False, version="", sha256="", loaded_ms=0, findings=("line 3",)
        ),
    }
    for kind, news in said.items():
        words = words_of(entries(news)[0])
        assert words is not None, kind
        assert words.kind == kind
        assert CANARY not in f"{words}"
    quiet: tuple[News, ...] = (
        escalated(kind=EscalationKind.INITIAL),
        FallbackNews(1, place, place, FailureClass.OUTAGE, CANARY),
        ModelNews(place, VerdictClass.DOWN, "cooldown", CANARY),
        WaitNews(waiting=False, since_ms=1, earliest_ms=2, reason=rated, rule="r"),
        WaitNews(
            waiting=True, since_ms=1, earliest_ms=2, reason=VerdictClass.HELD, rule="r"
        ),
        StrategyNews(applied=True, version="", sha256="", loaded_ms=0),
        TaskNews(
            answered=False, task_type="debug", layers=("free",), place=Place(), list_nanos=0,
            charged_nanos=0, story=CANARY,
        ),
    )  # fmt: skip
    for silent in quiet:
        assert words_of(entries(silent)[0]) is None


def test_an_alert_of_a_mark_carries_its_figures() -> None:
    quota = Quota("mini day", "model", Unit.REQUESTS, Period.DAY, 50, 40, 1, NOW_MS + 1)
    words = words_of(
        entries(AlertNews(AlertKind.QUOTA, "mini: 40 of 50", Place("l"), 80, quota))[0]
    )
    assert words is not None
    assert words.text == "80 % used: mini: 40 of 50"
    assert words.facts == {
        "layer": "l", "quota": "mini day", "limit": 50, "spent": 40, "unit": "requests",
        "resets_ms": NOW_MS + 1, "percent": 80,
    }  # fmt: skip
