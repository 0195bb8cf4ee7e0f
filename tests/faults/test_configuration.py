"""Faults G: strategy files, keys and caps, through ``bootstrap.start`` and the real server."""

import io
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

import escalade
from escalade.v1 import error_pb2
from escalade_server import bootstrap
from escalade_server.bootstrap import Options, StrategyErrors
from escalade_server.provider_simulator import ModelScript, ProviderScript, Scenario, Simulator
from escalade_server.strategy.errors import Level, Notice
from escalade_server.strategy.yaml_nodes import SIZE_BYTES_MAX
from tests.e2e.accounts import serving
from tests.faults.served import PRICE, served
from tests.strategy.strategies import GOOD, changed, loaded, with_more

CANARY = "sk-canary-0123456789"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 6)
)
CAP = "      monthly_cap: 5_usd\n"
RATE = "rate_limit: 50/day"
TWICE = changed("model: gpt-4o\n", "model: gpt-4o-mini\n")


def bad(row: str, text: str, line: int, words: str) -> object:
    return pytest.param(text, line, words, id=f"{row}-{words}", marks=pytest.mark.fault(row, "G8"))


BAD = [
    bad("G1", changed(CAP, CAP + CAP), 20, "already on line 19"),
    bad("G1", GOOD + "timeouts: {idle: 1s}\ntimeouts: {idle: 2s}\n", 21, "duplicate key"),
    bad("G2", changed("5_usd", "!!python/object:os.system x"), 19, "tags are not allowed"),
    bad("G2", changed("5_usd", "!!python/object/apply:os.abort []"), 19, "tags are not allowed"),
    bad("G3", changed("5_usd", ".inf"), 19, 'write "unlimited"'),
    bad("G3", changed("5_usd", "-.inf"), 19, "0 or more"),
    bad("G3", changed("5_usd", ".nan"), 19, "8_usd"),
    bad("G3", changed("5_usd", "12:30"), 19, "8_usd"),
    bad("G3", changed("5_usd", "on"), 19, "8_usd"),
    bad("G3", changed("5_usd", "true"), 19, "8_usd"),
    bad("G4", changed(CAP, "      montly_cap: 5_usd\n"), 19, 'did you mean "monthly_cap"?'),
    bad("G4", changed(RATE, "ratelimit: 50/day"), 7, 'did you mean "rate_limit"?'),
    bad("G6", changed(RATE, "price: {input: -1, output: 1}"), 7, "dollars"),
    bad("G6", changed(RATE, "price: {input: 1000.01, output: 1}"), 7, "i_know: true"),
    bad("G6", changed(RATE, "price: {input: 1, output: 2500000}"), 7, "dollars per 1,000,000"),
    bad("G6", changed(RATE, "price: {input: 0.00000015, output: 0.0000006}"), 7, "too low"),
    bad("G7", changed("5_usd", "none"), 19, "unlimited"),
    bad("G7", changed("5_usd", "-1"), 19, "0 or more"),
    bad("G7", changed("monthly_cap: 5_usd", "monthly_cap:"), 19, "give it one"),
    bad("G7", changed("50/day", "-1"), 7, "unlimited"),
    bad("G11", "fallback_strategy:\n  layers:\n  - {name: a, models: []}\n", 3, "one entry"),
    bad("G11", "fallback_strategy:\n  layers: []\n", 2, "one entry or more"),
    bad("G11", changed("priority: 2", "priority: 1"), 15, "line 9"),
    bad("G11", TWICE, 14, "line 6"),
    bad("G12", GOOD + BOMB, 20, "more than 50000 values"),
    bad("G12", GOOD + "x: &x [" + "*x, " * 51 + "]\n", 20, "more than 50 aliases"),
    bad("G14", changed("5_usd", "${NOWHERE_SET}"), 19, "set NOWHERE_SET"),
    bad("G14", changed("gpt-4o-mini", "gpt-${NOWHERE_SET}"), 6, "set NOWHERE_SET"),
]


@pytest.mark.parametrize(("text", "line", "words"), BAD)
async def test_a_bad_file_is_refused_whole_and_starts_nothing(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    file, state, log = tmp_path / "s.yaml", tmp_path / "state.sqlite3", io.StringIO()
    file.write_text(text)
    options = Options(strategy=str(file), port=0, state=str(state))
    with pytest.raises(StrategyErrors) as caught:
        await bootstrap.start(options, environ={"OPENAI_API_KEY": CANARY}, log_stream=log)
    told = [str(error) for error in caught.value if error.line == line]
    assert any(words in error for error in told), str(caught.value)
    assert all(error.startswith(f"{file}:") for error in told)
    assert not state.exists()
    assert CANARY not in str(caught.value)


@pytest.mark.fault("G12")
@pytest.mark.parametrize("size", [SIZE_BYTES_MAX + 1, 100_000_000])
def test_a_huge_file_is_not_even_read(tmp_path: Path, size: int) -> None:
    file = tmp_path / "s.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(size)
    tracemalloc.start()
    try:
        with pytest.raises(StrategyErrors, match="too large"):
            bootstrap.load_strategy(str(file))
        assert tracemalloc.get_traced_memory()[1] < 4 * SIZE_BYTES_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.fault("G3")
@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("010", 10_000_000_000),  # ten, not eight
        ("1e3", 1_000_000_000_000),
        ("0x10", 16_000_000_000),
        ("'7'", 7_000_000_000),
        ("0.000001", 1_000),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, nanos: int) -> None:
    premium = loaded(changed("5_usd", text)).catalog.models[1]
    assert [c.limit for c in premium.counters] == [nanos]


@pytest.mark.fault("G6")
def test_a_price_that_is_meant_is_taken_exactly() -> None:
    meant = loaded(changed(RATE, "price: {i_know: true, input: 1001, output: 0}")).catalog
    assert meant.models[0].price.input_picos == 1_001_000_000
    assert meant.models[0].price.output_picos == 0


# ------------------------------------------------------------------------------------ G7 and G13

PAID = """\
fallback_strategy:
  layers:
    - name: paid
      priority: 1
      billing: metered
      monthly_cap: {cap}
      models:
        - {{provider: openai, model: gpt, price: {{input: 1, output: 2}}}}
providers:
  openai: {{base_url: <openai>, api_key_env: PROVIDER_KEY}}
"""
CALL_NANOS = 200_000
"""Above the bound of one small call."""
SCRIPTS = {"openai": {"gpt": ModelScript(price=PRICE)}}


@pytest.mark.fault("G7")
async def test_a_cap_of_nothing_allows_nothing(tmp_path: Path) -> None:
    async with served(tmp_path, PAID.format(cap=0), SCRIPTS) as made:
        told = await made.ask()
        assert told.events[-1].failed.reason == error_pb2.ERROR_REASON_NO_ELIGIBLE_MODEL
        assert "more than the whole" in told.events[-1].failed.message
        assert made.account("openai", "gpt").requests_received == 0
    (tmp_path / "free").mkdir()
    async with served(tmp_path / "free", PAID.format(cap="unlimited"), SCRIPTS) as made:
        assert (await made.ask()).events[-1].HasField("finished")


@pytest.mark.fault("G13")
async def test_a_changed_cap_applies_to_the_next_reservation(tmp_path: Path) -> None:
    """Over restarts on one ledger: no refund, no fresh cap, nothing booked is touched."""
    spent = [0]
    # A cap that has room for one call, and was overtaken by what is spent already.
    lower = f"$0.000{CALL_NANOS // 1_000}"
    for cap, is_answered in (("$1", True), (lower, False), ("$2", True)):
        async with served(tmp_path, PAID.format(cap=cap), SCRIPTS) as made:
            assert made.booked_nanos() == spent[-1]
            for _ in range(12):
                ending = (await made.ask(max_output_tokens=12)).events[-1]
                assert ending.HasField("finished") is is_answered, ending
                if not is_answered:
                    assert ending.failed.reason == error_pb2.ERROR_REASON_BUDGET_EXHAUSTED
                    assert spent[-1] > CALL_NANOS
            now = spent[-1] + made.account("openai", "gpt").cost_nanos
            assert (made.booked_nanos(), made.held()) == (now, 0)
            spent.append(now)
    assert spent[1] == spent[2] < spent[3]


@pytest.mark.fault("G8")
async def test_a_file_that_turns_bad_disturbs_no_serving(tmp_path: Path) -> None:
    async with served(tmp_path, PAID.format(cap="$1"), SCRIPTS) as made:
        before = (await made.status()).strategy.sha256
        (tmp_path / "strategy.yaml").write_text("fallback_strategy: {layers: []}\n")
        assert (await made.ask()).events[-1].HasField("finished")
        assert (await made.status()).strategy.sha256 == before


# -------------------------------------------------------------------------------------------- G9

KEYED = """\
fallback_strategy:
  layers:
    - name: only
      priority: 1
      models: [{provider: openai, model: gpt, billing: free}]
providers:
  openai: {base_url: <openai>, api_key_file: key}
"""


def keyed() -> Simulator:
    """A provider that takes one key and no other."""
    script = ProviderScript(models={"gpt": ModelScript()}, api_keys=(CANARY,))
    return Simulator(Scenario(providers={"openai": script}))


@pytest.mark.fault("G9")
@pytest.mark.parametrize(
    "data", [CANARY, f"{CANARY}\n", f"{CANARY}\r\n", f"\ufeff{CANARY}\r\n", f" \t{CANARY} \n\n"]
)
async def test_a_key_file_reaches_the_provider_clean_and_nobody_else(
    tmp_path: Path, data: str, capfd: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_bytes(data.encode())
    key.chmod(0o644)
    async with (
        serving(tmp_path, KEYED, keyed(), {}) as running,
        escalade.AsyncClient(running.target) as client,
    ):
        answer = await client.complete("Say it.")
        seen = f"{answer}{await client.status()}{running.loaded}{running.loaded.notices}"
    assert answer.text
    assert "KEY_FILE_MODE" in {notice.code for notice in running.loaded.notices}
    out, err = capfd.readouterr()
    assert CANARY not in seen + out + err


@pytest.mark.fault("G9")
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (f"{CANARY}\n{CANARY}".encode(), "characters that no key has"),
        (f"{CANARY}\x00".encode(), "characters that no key has"),
        (CANARY.encode("utf-16"), "not text"),
    ],
)
async def test_a_key_file_that_holds_no_key_sends_nothing(
    tmp_path: Path, data: bytes | None, why: str
) -> None:
    if data is not None:
        (tmp_path / "key").write_bytes(data)
        (tmp_path / "key").chmod(0o600)
    simulator = keyed()
    async with (
        serving(tmp_path, KEYED, simulator, {}) as running,
        escalade.AsyncClient(running.target) as client,
    ):
        with pytest.raises(escalade.EscaladeError) as caught:
            await client.complete("Say it.")
        status = await client.status()
        asked = simulator.ledger().of("openai", "gpt").requests_received
    assert asked == 0
    assert why in status.layers[0].models[0].detail
    assert CANARY not in f"{caught.value}{status}{running.loaded.notices}"


# ------------------------------------------------------------------------------------------- G10

TWO = """\
providers:
  openai:
    accounts:
      work: {api_key_env: WORK%s}
      spare: {api_key_env: SPARE%s}
"""
OWN = """\
  other: {dialect: openai, base_url: 'https://api.openai.com/v1/', api_key_env: %s%s}
"""
ROUTED = (
    GOOD.replace(
        "          capabilities: [parsing]\n",
        "          capabilities: [parsing]\n"
        "        - {provider: openrouter, model: 'a/b:free', rate_limit: 50/day}\n"
        "        - {provider: openrouter, model: 'c/d:free', rate_limit: 50/day}\n",
    )
    + "providers:\n  openrouter: {}\n"
)
OTHER = GOOD.replace(
    "          capabilities: [parsing]\n",
    "          capabilities: [parsing]\n"
    "        - {provider: other, model: gpt-4o-mini, rate_limit: 50/day}\n",
)
KEYS = {"WORK": "k1", "SPARE": "k2", "OPENAI_API_KEY": "k1", "OPENROUTER_API_KEY": "k3"}


def shared(text: str, keys: Mapping[str, str] = KEYS) -> list[Notice]:
    return [notice for notice in loaded(text, keys).notices if notice.code == "SHARED_QUOTA"]


@pytest.mark.fault("G10")
@pytest.mark.parametrize(
    ("text", "keys", "level", "line", "words"),
    [
        (GOOD + TWO % ("", ""), KEYS, Level.ADVICE, 24, "of one project or organisation"),
        (GOOD + TWO % ("", ""), {**KEYS, "SPARE": "k1"}, Level.WARNING, 24, "are one account"),
        (
            OTHER + "providers:\n" + OWN % ("OPENAI_API_KEY", ""),
            KEYS,
            Level.WARNING,
            22,
            "openai and other are one account",
        ),
        (ROUTED, KEYS, Level.ADVICE, 10, "counts a/b:free and c/d:free together"),
    ],
)
def test_a_quota_counted_twice_is_said(
    text: str, keys: Mapping[str, str], level: Level, line: int, words: str
) -> None:
    (notice,) = shared(text, keys)
    assert (notice.level, notice.line) == (level, line)
    assert words in notice.sentence
    assert notice.mend
    assert not any(key in str(notice) for key in keys.values())


@pytest.mark.fault("G10")
@pytest.mark.parametrize(
    "text",
    [
        GOOD + TWO % (", quota_group: team", ", quota_group: team"),
        GOOD + TWO % (", quota_group: a", ", quota_group: b"),
        GOOD.replace("          rate_limit: 50/day\n", "") + TWO % ("", ""),
        OTHER + "providers:\n" + OWN % ("SPARE", ""),
        OTHER
        + "providers:\n  openai: {quota_group: one}\n"
        + OWN % ("OPENAI_API_KEY", ", quota_group: one"),
        ROUTED.replace("openrouter: {}", "openrouter: {rate_limit: 50/day}"),
        ROUTED.replace("c/d:free", "c/d"),
    ],
)
def test_what_is_declared_or_apart_is_not_warned_of(text: str) -> None:
    assert shared(text) == []


@pytest.mark.fault("G10")
def test_one_group_counts_as_one() -> None:
    grouped = with_more(TWO % (", quota_group: team", ", quota_group: team"))
    first, second, *_ = loaded(grouped, KEYS).catalog.models
    assert (first.account, second.account) == ("work", "spare")
    assert [c.key for c in first.counters] == [c.key for c in second.counters]
