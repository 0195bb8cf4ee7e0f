"""`escalade status --watch`: fits every terminal, says what is out, and outlives the server."""

import io
from datetime import timedelta

import pytest
from rich.console import Console

from escalade.v1 import escalation_pb2 as e
from escalade.v1 import operations_service_pb2 as o
from escalade_server.cli.status import _say
from escalade_server.cli.status_screen import EVENTS_LEAST, Money, Screen

NOW_S = 1_790_000_000
DAY = "day"


def quota(unit: e.QuotaUnit.ValueType, spent: int, held: int, limit: int) -> e.Quota:
    return e.Quota(
        name=f"{unit}/{limit}", scope="model", unit=unit, period=DAY, spent=spent, held=held,
        limit=limit,
    )  # fmt: skip


def model(layer: int, number: int, *, is_out: bool = False) -> o.ModelStatus:
    made = o.ModelStatus(
        target=e.ModelRef(layer=f"layer-{layer}", provider="p", model=f"maker/model-{number}"),
        verdict=e.VERDICT_CLASS_OK,
        circuit=o.CIRCUIT_STATE_CLOSED,
        quotas=[
            quota(e.QUOTA_UNIT_REQUESTS, 12, 3, 50),
            quota(e.QUOTA_UNIT_TOKENS, 123_456, 0, 2_000_000),
        ],
    )
    if is_out:
        made.verdict, made.reason = e.VERDICT_CLASS_DOWN, "cooldown"
        made.detail = "too many requests, said the provider in a very long sentence indeed"
        made.until.FromSeconds(NOW_S + 90)
    return made


def status(models: int = 3, waiters: int = 0, *, out: int = 0) -> o.GetStatusResponse:
    made = o.GetStatusResponse(version="1.0", waiter_count=waiters, in_flight_count=2)
    made.now.FromSeconds(NOW_S)
    made.started.FromSeconds(NOW_S - 3_700)
    for number in range(3):
        made.layers.add(
            name=f"layer-{number}",
            priority=number + 1,
            quotas=[quota(e.QUOTA_UNIT_NANO_USD, 4_000_000_000, 500_000_000, 8_000_000_000)],
            models=[model(number, n, is_out=n < out) for n in range(models)],
        )
    for number in range(min(waiters, 5)):
        waiter = made.waiters.add(
            agent="bo", request_id=f"req-{number}", position=number + 1, rule="50/day",
            reason=e.VERDICT_CLASS_RATE,
        )  # fmt: skip
        waiter.since.FromSeconds(NOW_S - 65)
        waiter.earliest.FromSeconds(NOW_S + 3_600)
    return made


def event(number: int) -> o.FeedEntry:
    entry = o.FeedEntry(request_id=f"req-{number}")
    entry.time.FromSeconds(NOW_S)
    entry.escalated.from_layer, entry.escalated.to_layer = "free", "paid"
    entry.escalated.reason = e.ESCALATION_REASON_RATE_LIMIT
    entry.escalated.detail = "a detail that is as long as details are"
    return entry


def drawn(screen: Screen, width: int, height: int) -> list[str]:
    """Draw a screen as the lines that a terminal of this size shows."""
    with io.StringIO() as file:
        out = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
        out.print(screen.draw(out))
        return file.getvalue().splitlines()


def filled(told: o.GetStatusResponse) -> Screen:
    screen = Screen("127.0.0.1:50051")
    screen.status = told
    screen.today = Money(1_500_000_000, 4_500_000_000)
    screen.month = Money(20_000_000_000, -1_000_000_000)
    for number in range(60):
        screen.add(event(number))
    return screen


@pytest.mark.parametrize("size", [(80, 24), (80, 18), (100, 30), (120, 40), (200, 60)])
@pytest.mark.parametrize("models", [1, 3, 12])
@pytest.mark.parametrize("trouble", [0, 2])
def test_it_fits_and_keeps_room_for_events(
    size: tuple[int, int], models: int, trouble: int
) -> None:
    width, height = size
    lines = drawn(filled(status(models, 9 * trouble, out=trouble)), width, height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert sum("escalated" in line for line in lines) >= EVENTS_LEAST
    assert sum("layer-" in line for line in lines) >= 1


def test_it_says_what_there_is_to_know() -> None:
    lines = drawn(filled(status(2, 9, out=1)), 100, 40)
    text = "\n".join(lines)
    for words in (
        "escalade 1.0 at 127.0.0.1:50051, up 1 h 1 min",
        "2 tasks in flight, 9 tasks waiting",
        "today $1.50, saved $4.50 (75 %)",
        "month $20.00, $1.00 over one model",
        "12+3/50 req",
        "123k/2.0M tok",
        "$4+$0.5000/$8",
        "! model-0 until 14:14:50 (in 1 min): too many requests",
        "1 bo req-0 waits 1 min, not before 15:13:20 (rate: 50/day)",
        "and 6 more wait",
        "14:13:20 escalated req-59 rate_limit: free → paid; a detail",
    ):
        assert words in text, words
    bar = next(line for line in lines if "12+3/50" in line)
    assert 0 < bar.count("█") < bar.count("█") + bar.count("▒") < 12


def test_what_is_too_much_is_counted() -> None:
    text = "\n".join(drawn(filled(status(12)), 80, 24))
    assert "and " in text
    assert " more" in text
    text = "\n".join(drawn(filled(status(2, out=2)), 80, 20))
    assert "more: `escalade status` lists them" in text


def test_trouble_and_silence_are_told() -> None:
    screen = Screen("here")
    assert drawn(screen, 80, 24) == ["asking here ..."]
    screen.status, screen.trouble = status(), "nothing heard since 14:13:20"
    screen.quiet = "events are an operator's to see"
    text = "\n".join(drawn(screen, 80, 24))
    assert "nothing heard since 14:13:20" in text
    assert "events are an operator's to see" in text
    assert "month" not in text


def test_an_operators_word_and_what_never_ends_by_itself() -> None:
    told = status(1)
    found = told.layers[0].models[0]
    found.verdict, found.reason, found.disabled = e.VERDICT_CLASS_DOWN, "disabled", True
    found.detail = "set aside by operator alice: odd answers"
    told.layers[1].models[0].circuit = found.circuit = o.CIRCUIT_STATE_HALF_OPEN
    other = told.layers[2].models[0]
    other.verdict, other.reason = e.VERDICT_CLASS_RATE, "window_full"
    other.until.FromSeconds(NOW_S + round(timedelta(days=3).total_seconds()))
    text = "\n".join(drawn(filled(told), 120, 40))
    assert "disabled until somebody acts: by operator alice: odd answers" in text
    assert text.count("model-0 to be probed") == 1
    assert "used up until 09-24 14:13 (in 3 d 0 h)" in text
    found.reason, found.circuit = "circuit_open", o.CIRCUIT_STATE_OPEN
    found.until.FromSeconds(NOW_S + 60)
    assert " circuit open until 09-21 14:14" in "\n".join(drawn(filled(told), 110, 40))


@pytest.mark.parametrize("size", [(80, 24), (100, 30)])
def test_who_waits_is_seen_however_much_is_out(size: tuple[int, int]) -> None:
    text = "\n".join(drawn(filled(status(3, 9, out=3)), *size))
    assert "1 bo req-0 waits 1 min" in text
    assert "model-0 until" in text


def test_no_line_of_80_columns_loses_what_matters_most() -> None:
    told = status(1)
    del told.layers[0].models[0].quotas[:]
    for spent, held, limit in (
        (2_800_000, 14_800_000, 300_000_000),
        (28_000_000, 500_000_000, 10**13),
    ):
        told.layers[0].models[0].quotas.append(quota(e.QUOTA_UNIT_NANO_USD, spent, held, limit))
    told.layers[0].models[0].quotas.append(quota(e.QUOTA_UNIT_TOKENS, 4_096, 8_192, 100_000))
    told.layers[0].models[0].quotas.append(quota(e.QUOTA_UNIT_REQUESTS, 1_234, 56, 5_000))
    screen = Screen("here")
    screen.status = told
    ended = o.FeedEntry(request_id="0123456789abcdef0123456789abcdef")
    ended.task_ended.answered, ended.task_ended.model.model = True, "maker/glm-5"
    ended.task_ended.cost.charged_nano_usd = 21_000_000
    screen.add(ended)
    lone = event(1)
    lone.request_id = ended.request_id
    screen.add(lone)
    text = "\n".join(drawn(screen, 80, 40))
    for words in (
        "$0.003+0.015/0.3 ", "$0.028+0.5/10000 ", "4k+8k/100k tok ", "1.2k+56/5k req ",
        f"answered  {ended.request_id} by glm-5, $0.0210",
        f"escalated {ended.request_id} rate_limit: free",
    ):  # fmt: skip
        assert words in text, words


def test_agents_have_a_name() -> None:
    told = status(1)
    for name, unit in (
        ("bo requests/day", e.QUOTA_UNIT_REQUESTS),
        ("bo monthly cap", e.QUOTA_UNIT_NANO_USD),
        ("al monthly cap", e.QUOTA_UNIT_NANO_USD),
    ):
        period = "month" if unit == e.QUOTA_UNIT_NANO_USD else DAY
        told.quotas.add(name=name, scope="agent", unit=unit, period=period, spent=1, limit=9)
    lines = drawn(filled(told), 80, 40)
    assert [line.split()[1] for line in lines if line.startswith("agent ")] == ["bo", "al"]


def test_status_lists_who_waits_and_for_what(capsys: pytest.CaptureFixture[str]) -> None:
    _say(status(1, 9))
    said = capsys.readouterr().out
    assert "9 tasks wait for capacity, until 09-21 15:13 UTC at the soonest" in said
    rows = [line.split() for line in said.splitlines() if " req-" in line]
    assert rows[0] == ["1", "bo", "req-0", "09-21", "14:12", "09-21", "15:13", "rate", "50/day"]
    assert len(rows) == 5
    assert "and 4 more" in said
