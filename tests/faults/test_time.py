"""Faults T: midnights, months, zones, clocks that are wrong, hints that cannot be right."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.v1 import error_pb2
from escalade_server.bootstrap import clock as clock_module
from escalade_server.core.catalog import Period
from escalade_server.core.commands import CallModel
from escalade_server.core.events import Reserved
from escalade_server.core.facts import ErrorReason
from escalade_server.core.task import Message, Request, Role, Task, Text
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.ports import ProviderFailure
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.http import HttpClient, HttpLimits, date_of
from escalade_server.providers.registry import ProviderRegistry
from escalade_server.stores.books import Books
from escalade_server.stores.schema import migrate
from tests.faults.served import PRICE, Served, alerts, attempts, failure, served
from tests.faults.timed import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Hands, ms, timed
from tests.providers.candidates import candidate as wire_candidate
from tests.providers.raw_server import Peer, serve
from tests.stores.world import candidate, counter, reserve

ROOT = Path(__file__).resolve().parents[2]
DAILY = """\
fallback_strategy:
  layers:
    - name: only
      priority: 1
      models:
        - {provider: %s, model: m, rate_limit: %s, billing: free, price: {input: 1, output: 2}}
  failure_handling: {on_all_layers_exhausted: fail}
"""
MONTHLY = """\
fallback_strategy:
  layers:
    - name: only
      priority: 1
      billing: metered
      monthly_cap: %s
      models: [{provider: openai, model: m, price: {input: 1, output: 2}}]
  failure_handling: {on_all_layers_exhausted: fail}
"""
BILL_NANOS = 1_020_000  # 20 tokens in at $1, 500 out at $2 a million
ONE_CALL = "$0.0090"
"""Room for one call with its bound, and none for a second after it."""


# ------------------------------------------------------------------------------------ T1 and T2


@pytest.mark.parametrize(
    ("strategy", "key", "at", "later", "old", "new", "booked"),
    [
        pytest.param(
            DAILY % ("openai", "2/day"), "requests/day", "2026-11-23T23:59:59",
            "2026-11-24T00:00:30", "2026-11-23", "2026-11-24", 1,
            id="T1-day", marks=pytest.mark.fault("T1"),
        ),
        pytest.param(
            MONTHLY % "$1", "nanos/month", "2026-11-30T23:59:59", "2026-12-01T00:00:30",
            "2026-11-01", "2026-12-01", BILL_NANOS, id="T2-month", marks=pytest.mark.fault("T2"),
        ),
        pytest.param(
            DAILY % ("google", "2/day"), "requests/day", "2026-11-24T07:59:59",
            "2026-11-24T08:00:30", "2026-11-23", "2026-11-24", 1,
            id="T1-pacific", marks=pytest.mark.fault("T1", "T3"),
        ),
    ],
)  # fmt: skip
async def test_what_is_admitted_before_midnight_is_charged_to_that_window(
    strategy: str, key: str, at: str, later: str, old: str, new: str, booked: int
) -> None:
    async with timed(strategy, at) as world:
        world.provider.meanwhile = lambda: world.hands.pass_to(later)
        assert await world.is_answered()
        assert world.windows(key) == {old: booked}
        world.provider.meanwhile = lambda: None
        assert await world.is_answered()
        assert world.windows(key) == {old: booked, new: booked}


# ------------------------------------------------------------------------------------------- T3

DST_DAYS = [
    # instant inside, the day's first instant, the next reset
    ("2026-03-08T20:00", "2026-03-08T08:00", "2026-03-09T07:00"),  # 23 hours
    ("2026-11-01T07:30", "2026-11-01T07:00", "2026-11-02T08:00"),  # 25 hours
    ("2027-03-14T20:00", "2027-03-14T08:00", "2027-03-15T07:00"),
    ("2027-03-13T20:00", "2027-03-13T08:00", "2027-03-14T08:00"),
]


@pytest.mark.fault("T3")
@pytest.mark.parametrize(("now", "starts", "ends"), DST_DAYS)
async def test_googles_day_ends_at_midnight_in_california(now: str, starts: str, ends: str) -> None:
    async with timed(DAILY % ("google", "1/day"), starts) as world:
        world.hands.pass_to(now)
        assert await world.is_answered()
        refused = await world.refusal()
        assert (refused.reason, refused.retry_at_ms) == (ErrorReason.RATE_LIMITED, ms(ends))
        last = datetime.fromtimestamp((ms(ends) - 1) / 1_000, UTC).replace(tzinfo=None)
        world.hands.pass_to(last.isoformat())
        assert (await world.refusal()).retry_at_ms == ms(ends)
        world.hands.pass_to(ends)
        assert await world.is_answered()
        assert len(world.windows("requests/day")) == 2


@pytest.mark.fault("T3")
async def test_the_real_server_over_a_pacific_midnight(tmp_path: Path) -> None:
    models = "{provider: google, model: m, rate_limit: 1/day, billing: free}"
    strategy = f"""\
fallback_strategy:
  layers: [{{name: only, priority: 1, models: [{models}]}}]
  failure_handling: {{on_all_layers_exhausted: fail}}
providers: {{google: {{base_url: <google>, api_key_env: PROVIDER_KEY}}}}
"""
    async with served(tmp_path, strategy, {"google": {"m": ModelScript()}}) as made:
        made.leap(ms("2027-03-14T20:00") - made.now_ms)
        assert (await made.ask()).events[-1].HasField("finished")
        refused = (await made.ask()).events[-1].failed
        assert refused.reason == error_pb2.ERROR_REASON_RATE_LIMITED
        assert (await made.model("m")).quotas[0].resets.ToMilliseconds() == ms("2027-03-15T07:00")
        made.leap(ms("2027-03-15T07:00") - made.now_ms)
        assert (await made.ask()).events[-1].HasField("finished")


# ------------------------------------------------------------------------------- T4, T5 and T6


@pytest.mark.fault("T4")
async def test_a_step_back_over_midnight_opens_nothing(tmp_path: Path) -> None:
    state = tmp_path / "s.db"
    strategy = DAILY % ("openai", "1/day")
    async with timed(strategy, "2026-11-24T00:05", state=state) as world:
        assert await world.is_answered()
        world.hands.jump(-10 * MINUTE_MS)
        for _ in range(30):
            world.hands.jump(0)
            assert (await world.refusal()).retry_at_ms == ms("2026-11-25")
        assert world.windows("requests/day") == {"2026-11-24": 1}
    async with timed(strategy, "2026-11-23T23:56", state=state) as world:
        assert (await world.refusal()).retry_at_ms == ms("2026-11-25")


def date(at_ms: int) -> str:
    return format_datetime(datetime.fromtimestamp(at_ms / 1_000, UTC), usegmt=True)


@pytest.mark.fault("T5")
@pytest.mark.parametrize("ahead_ms", [40 * DAY_MS, 8 * DAY_MS, 400 * DAY_MS])
async def test_a_jump_ahead_gives_no_fresh_cap_until_two_witnesses_agree(ahead_ms: int) -> None:
    async with timed(MONTHLY % ONE_CALL, "2026-11-23T12:00", witnessed=True) as world:
        assert await world.is_answered()
        assert (await world.refusal()).reason is ErrorReason.BUDGET_EXHAUSTED
        hands, clock = world.hands, world.hands.clock
        hands.jump(ahead_ms)
        assert clock.doubted_ms == pytest.approx(ahead_ms, abs=SECOND_MS)
        truth, wall = hands.wall_ms - ahead_ms, hands.wall_ms
        for said in (
            [],
            [date(truth)] * 5,
            [date(wall)],
            [date(wall), date(truth), date(wall)],
            [date(wall), date(wall + HOUR_MS), date(wall)],
            ["", "soon", "Thu, 99 Nov 2026 00:00:00 GMT"],
        ):
            clock.hear(date(truth))
            for one in said:
                clock.hear(one)
            for _ in range(1_200):  # twenty minutes: time alone convinces nobody
                hands.jump(0)
            assert not await world.is_answered(), said
        clock.hear(date(hands.wall_ms))
        clock.hear(date(hands.wall_ms + MINUTE_MS))
        hands.jump(0)
        assert clock.doubted_ms == 0
        assert clock.now_ms() == hands.wall_ms
        assert await world.is_answered() is (ahead_ms != 0)


@pytest.mark.fault("T5")
def test_what_witnesses_said_of_one_wall_is_not_said_of_another() -> None:
    hands = Hands(ms("2026-11-23T12:00"))
    hands.clocked(witnessed=True)
    hands.jump(40 * DAY_MS)
    hands.clock.hear(date(hands.wall_ms))
    hands.jump(40 * DAY_MS)
    hands.clock.hear(date(hands.wall_ms))
    hands.jump(0)
    assert hands.clock.doubted_ms == pytest.approx(80 * DAY_MS, abs=SECOND_MS)
    hands.jump(-80 * DAY_MS)
    assert hands.clock.doubted_ms == 0
    assert hands.clock.now_ms() == hands.wall_ms


@pytest.mark.fault("T5")
@pytest.mark.parametrize("status", ["200 OK", "429 Too Many Requests"])
async def test_every_answer_of_a_provider_says_what_time_it_is(status: str) -> None:
    said = date(ms("2027-01-02T03:04:05"))

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.answer(b"{}", status=status, headers=f"Date: {said}\r\n".encode())

    heard: list[tuple[str, str]] = []
    async with serve(script) as server, HttpClient(HttpLimits()) as http:
        url = server.url.partition("/chat")[0]
        endpoint = Endpoint("openai", "default", url, "sk-canary")
        providers = ProviderRegistry.over_http(
            [("openai", endpoint)], http, SystemClock(), witness=lambda *told: heard.append(told)
        )
        chosen = wire_candidate("openai", "m")
        asked = Request("r", Task(), (Message(Role.USER, (Text("Why?"),)),))
        with pytest.raises(ProviderFailure):
            async for _ in providers.of(chosen.model).call(CallModel(1, chosen), asked):
                pass
        assert heard == [("openai", said)]
        assert await date_of(http, url) == said
        assert b"canary" in server.heads[0]
        assert b"canary" not in server.heads[1], "who only asks for the time shows no key"
        assert await date_of(http, "http://127.0.0.1:1/") == ""


CAPPED = MONTHLY % "$1" + "providers: {openai: {base_url: <openai>, api_key_env: PROVIDER_KEY}}\n"


@pytest.mark.fault("T5")
async def test_the_server_holds_its_cap_until_its_providers_date_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator stands in for another machine, whose clock is right until it is set, too."""
    monkeypatch.setattr(clock_module, "is_loopback", lambda _url: False)
    monkeypatch.setattr(clock_module, "LOOK_S", 0.05)
    async with served(tmp_path, CAPPED, {"openai": {"m": ModelScript(price=PRICE)}}) as made:
        clock = made.running.engine.clock
        assert isinstance(clock, SystemClock)
        assert (await made.ask()).events[-1].HasField("finished")
        spent = made.booked_nanos()
        assert spent > 0
        wall = clock._wall_ns
        clock._wall_ns = lambda: wall() + 40 * DAY_MS * 1_000_000
        while not clock.doubted_ms:  # noqa: ASYNC110 - a clock has no event
            await asyncio.sleep(0.05)
        for _ in range(3):
            assert (await made.ask()).events[-1].HasField("finished")
        assert made.booked_nanos() > 3 * spent, "all in the old window"
        # The providers' clocks are what our wall says: by itself the server asks, and believes.
        monkeypatch.setattr(
            "aiohttp.web_response.rfc822_formatted_time",
            lambda: date(clock._wall_ns() // 1_000_000),
        )
        while clock.doubted_ms:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
        assert made.booked_nanos() == 0, "a new month, and it is true"


@pytest.mark.fault("T5")
def test_who_answers_on_this_machine_is_no_witness() -> None:
    hands = Hands(ms("2026-11-23T12:00"))
    hands.clocked(witnessed=True)

    from tests.strategy.strategies import GOOD, KEYS, loaded  # noqa: PLC0415

    local = GOOD + "providers: {openai: {base_url: 'http://127.0.0.1:1/v1'}}\n"
    for text, believed in ((local, False), (GOOD, True)):
        hands.jump(40 * DAY_MS)
        witness = clock_module.witness_of(hands.clock, loaded(text, KEYS))
        witness("openai", date(hands.wall_ms))
        witness("nobody", date(hands.wall_ms))
        witness("openai", date(hands.wall_ms))
        hands.jump(0)
        assert (hands.clock.doubted_ms == 0) is believed


@pytest.mark.fault("T6")
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=5, max_size=60))
def test_two_writers_whose_clocks_differ_share_the_later_window(
    moves: list[tuple[bool, int]],
) -> None:
    """Both write one file, one of them 90 s behind: midnight comes once, for both."""
    limit = counter("daily", 5)
    order = candidate(limit)
    now_ms = ms("2026-11-23T23:58:30")
    admitted: Counter[str] = Counter()
    windows: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        connections = [apsw.Connection(f"{folder}/s.db") for _ in range(2)]
        migrate(connections[0])
        writers = [Books(each, Calendar(), now_ms) for each in connections]
        for writer in writers:
            writer.open([limit])
        for number, (behind, seconds) in enumerate(moves):
            now_ms += seconds * SECOND_MS
            writer = writers[behind]
            writer.begin(())
            answer = writer.reserve(reserve(f"r{number}", order), now_ms - 90 * SECOND_MS * behind)
            writer.commit()
            writer.changes()
            if isinstance(answer, Reserved):
                [(label,)] = connections[0].execute(
                    "SELECT label FROM windows ORDER BY starts_ms DESC LIMIT 1"
                )
                windows.append(str(label))
                admitted[str(label)] += 1
        for connection in connections:
            connection.close()
    assert all(earlier <= later for earlier, later in pairwise(windows))
    assert all(count <= 5 for count in admitted.values())


# ------------------------------------------------------------------------------------ T7 and T8


@pytest.mark.fault("T7")
def test_a_leap_second_is_no_second_midnight() -> None:
    """The wall shows 23:59:59 twice; the month begins once."""
    hands = Hands(ms("2016-12-31T23:59:50"))
    hands.clocked(witnessed=False)
    calendar, monthly = Calendar(), counter("m", 1, period=Period.MONTH)
    seen, last_ms = [], 0
    for tick in range(200):
        hands.passed_ms += 100
        hands.wall_ms += 100
        if tick == 100:
            hands.wall_ms -= 1_000
        now_ms = hands.clock.now_ms()
        assert now_ms >= last_ms
        last_ms = now_ms
        seen.append(calendar(monthly, now_ms).id)
    assert seen == sorted(seen)
    assert set(seen) == {"2016-12-01", "2017-01-01"}


@pytest.mark.fault("T7")
@pytest.mark.parametrize(
    ("at", "day", "ends"),
    [
        ("2027-02-27T12:00", 28, "2027-02-28"),
        ("2028-02-28T12:00", 28, "2028-03-28"),
        ("2028-02-29T12:00", 1, "2028-03-01"),
        ("2027-02-27T12:00", 31, "2027-02-28"),
        ("2027-03-01T12:00", 31, "2027-03-31"),
        ("2028-02-28T12:00", 30, "2028-02-29"),
        ("2026-11-30T00:00", 14, "2026-12-14"),
        ("2026-11-23T12:00", 1, "2026-12-01"),
    ],
)
async def test_a_billing_month_is_one_of_the_calendar(at: str, day: int, ends: str) -> None:
    strategy = MONTHLY % f"{ONE_CALL}\n      cap_resets: day {day}"
    async with timed(strategy, at) as world:
        assert await world.is_answered()
        assert (await world.refusal()).retry_at_ms == ms(ends)
        world.hands.pass_to(ends)
        assert await world.is_answered()


T8 = """\
import sys
if sys.argv[1] == "none":
    sys.modules["tzdata"] = None
from escalade_server.engine.calendar import Calendar
from escalade_server.core.catalog import Counter, CounterScope, Period, Unit
day = Counter("k", Unit.REQUESTS, Period.DAY, 1, CounterScope.MODEL, "", "America/Los_Angeles")
print(Calendar()(day, 1793518200000).ends_ms)
"""


@pytest.mark.fault("T8")
@pytest.mark.parametrize("data", ["package", "none"])
def test_zones_come_from_the_package_and_are_tried_at_the_start(data: str) -> None:
    """As in an image without /usr/share/zoneinfo."""
    ran = subprocess.run(
        [sys.executable, "-c", T8, data], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONTZPATH": ""}, check=False,
    )  # fmt: skip
    if data == "package":
        assert ran.stdout.strip() == str(ms("2026-11-02T08:00")), ran.stderr
        assert "tzdata" in (ROOT / "server" / "pyproject.toml").read_text()
    else:
        assert ran.returncode != 0
        assert "see that the package tzdata is installed" in ran.stderr


# ----------------------------------------------------------------------------------- T9 and T10

ONE = """\
fallback_strategy:
  layers:
    - name: only
      priority: 1
      models: [{provider: %s, model: m, rate_limit: %s, billing: free}]
  failure_handling: {on_all_layers_exhausted: fail}
providers: {%s: {base_url: <%s>, api_key_env: PROVIDER_KEY}}
"""


async def cooled_until_ms(made: Served) -> int:
    """When the model may be asked again; a cooldown is kept a moment after its task has ended."""
    while not (model := await made.model("m")).HasField("cooldown"):  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    return model.cooldown.until.ToMilliseconds()


@pytest.mark.fault("T9")
async def test_a_rolling_window_of_five_hours_opens_when_the_provider_says(tmp_path: Path) -> None:
    """MiniMax states the instant in its words; our own sliding hour has room all the time."""
    strategy = ONE % ("minimax", "100/hour", "minimax", "minimax")
    script = ModelScript(faults=(Fault(kind=FaultKind.PLAN_WINDOW, on_requests=(1,)),))
    async with served(tmp_path, strategy, {"minimax": {"m": script}}) as made:
        refused_ms = made.now_ms
        told = await made.ask()
        assert [failure(attempt) for attempt in attempts(told)] == ["QUOTA_WINDOW"]
        until_ms = await cooled_until_ms(made)
        assert abs(until_ms - refused_ms - 5 * HOUR_MS) < MINUTE_MS
        made.leap(until_ms - made.now_ms - MINUTE_MS)
        assert attempts(await made.ask()) == []
        made.leap(2 * MINUTE_MS)
        assert (await made.ask()).events[-1].HasField("finished")


@pytest.mark.fault("T9")
async def test_our_own_hour_slides() -> None:
    async with timed(DAILY % ("openai", "2/hour"), "2026-11-23T12:50") as world:
        assert await world.is_answered()
        world.hands.pass_to("2026-11-23T13:20")
        assert await world.is_answered()
        assert not await world.is_answered(), "an hour of the calendar would have begun"
        world.hands.pass_to("2026-11-23T14:00")
        assert await world.is_answered()
        assert not await world.is_answered()


@pytest.mark.fault("T10")
@pytest.mark.parametrize(
    ("retry_after_ms", "kept_ms", "is_odd"),
    [
        (400 * DAY_MS, 32 * DAY_MS, True),
        (33 * DAY_MS, 32 * DAY_MS, True),
        (31 * DAY_MS, 31 * DAY_MS, False),
        (MINUTE_MS, MINUTE_MS, False),
    ],
)
async def test_a_reset_that_cannot_be_right_is_clamped_and_said(
    tmp_path: Path, retry_after_ms: int, kept_ms: int, *, is_odd: bool
) -> None:
    fault = Fault(kind=FaultKind.RATE_LIMIT, on_requests=(1,), retry_after_ms=retry_after_ms)
    strategy = ONE % ("openai", "100/hour", "openai", "openai")
    async with served(tmp_path, strategy, {"openai": {"m": ModelScript(faults=(fault,))}}) as made:
        refused_ms = made.now_ms
        told = await made.ask()
        until_ms = await cooled_until_ms(made)
        assert abs(until_ms - refused_ms - kept_ms) < MINUTE_MS
        assert alerts(told) == (["PROVIDER"] if is_odd else [])
        made.leap(kept_ms + MINUTE_MS)
        assert (await made.ask()).events[-1].HasField("finished")


# ------------------------------------------------------------------------------------------ T11


@pytest.mark.fault("T11")
async def test_a_crowd_at_the_reset_meets_the_same_limit() -> None:
    """All come in the instant in which the day begins: what is admitted is the day's limit."""
    async with timed(DAILY % ("google", "5/day"), "2026-11-01T07:00") as world:
        assert [await world.is_answered() for _ in range(6)] == [True] * 5 + [False]
        world.hands.pass_to("2026-11-02T08:00")
        ticking = asyncio.create_task(world.hands.tick())
        crowd = await asyncio.gather(*(world.ask() for _ in range(200)))
        ticking.cancel()
        assert world.provider.calls == 10
        assert sum(type(each).__name__ == "Finished" for each in crowd) == 5
