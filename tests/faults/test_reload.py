"""Another strategy takes the place of the one in force, while the server serves (G8, G9, G13)."""

import asyncio
import contextlib
import io
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from escalade.v1 import error_pb2, operations_service_pb2_grpc
from escalade.v1 import operations_service_pb2 as wire
from escalade_server.api.callers import ACCESS, Access
from escalade_server.api.strategies import Severity
from escalade_server.bootstrap import Options, Running, start
from escalade_server.bootstrap import reload as keeping
from escalade_server.provider_simulator import (
    ModelScript,
    ProviderScript,
    Scenario,
    Simulator,
)
from tests.e2e.accounts import serving
from tests.faults.served import LOCAL, PRICE, Served, served

PAID = """\
fallback_strategy:
  layers:
    - name: {name}
      priority: 1
      billing: metered
      monthly_cap: {cap}
      models:
        - {{provider: openai, model: gpt, price: {{input: 1, output: 2}}}}
providers:
  openai: {{base_url: {url}, api_key_env: PROVIDER_KEY}}
"""
SCRIPTS = {"openai": {"gpt": ModelScript(price=PRICE)}}
CANARY, FRESH = "sk-canary-old", "sk-canary-new"
WAIT_S = 20.0


def paid(url: str, cap: str = "$1", name: str = "paid", was: str = "") -> str:
    text = PAID.format(url=url, cap=cap, name=name)
    return (
        text.replace("billing: metered\n", f"billing: metered\n      was: {was}\n") if was else text
    )


def desk(channel: aio.Channel) -> "operations_service_pb2_grpc.OperationsServiceAsyncStub":
    return operations_service_pb2_grpc.OperationsServiceStub(channel)


async def reload(made: Served) -> wire.ReloadStrategyResponse:
    return await desk(made.channel).ReloadStrategy(wire.ReloadStrategyRequest())


@contextlib.asynccontextmanager
async def spending(
    folder: Path, log: io.StringIO | None = None
) -> AsyncIterator[tuple[Served, Callable[..., None]]]:
    """Serve one paid layer, of which some is spent; and a way to write the file anew."""
    async with served(folder, paid("<openai>"), SCRIPTS, log) as made:

        def write(**said: str) -> None:
            text = paid(made.simulator.provider_url("openai"), **said)
            (folder / "strategy.yaml").write_text(text)

        assert (await made.ask()).events[-1].HasField("finished")
        assert made.booked_nanos()
        yield made, write


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.05)


@pytest.mark.fault("G13")
async def test_a_cap_that_is_lowered_and_raised_again_holds_from_the_next_call_on(
    tmp_path: Path,
) -> None:
    async with spending(tmp_path) as (made, write):
        spent = made.booked_nanos()
        write(cap="$0.00000001")
        told = await reload(made)
        assert told.applied
        assert not [f for f in told.findings if f.severity == wire.SEVERITY_ERROR]
        ending = (await made.ask()).events[-1]
        assert ending.failed.reason in {
            error_pb2.ERROR_REASON_BUDGET_EXHAUSTED,
            error_pb2.ERROR_REASON_NO_ELIGIBLE_MODEL,
        }
        assert (made.booked_nanos(), made.held()) == (spent, 0)
        write(cap="$2")
        assert (await reload(made)).applied
        assert (await made.ask()).events[-1].HasField("finished")
        assert made.booked_nanos() == made.account("openai", "gpt").cost_nanos > spent


@pytest.mark.fault("G13")
async def test_a_renamed_layer_keeps_its_spend_or_is_refused(tmp_path: Path) -> None:
    log = io.StringIO()
    async with spending(tmp_path, log) as (made, write):
        spent, before = made.booked_nanos(), (await made.status()).strategy
        write(name="dear")
        told = await reload(made)
        assert not told.applied
        [finding] = told.findings
        assert (finding.code, finding.severity) == ("spend_lost", wire.SEVERITY_ERROR)
        assert "was: paid" in finding.mend
        assert told.strategy.sha256 == before.sha256
        assert (await made.ask()).events[-1].HasField("finished")

        write(name="dear", was="paid")
        assert (await reload(made)).applied
        [layer] = (await made.status()).layers
        assert layer.name == "dear"
        assert layer.quotas[0].spent == made.booked_nanos() > spent
    logged = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["event"] for line in logged if line["event"].startswith("strategy.re")] == [
        "strategy.refused",
        "strategy.reloaded",
    ]


@pytest.mark.fault("G8")
async def test_a_bad_file_is_told_of_and_changes_nothing(tmp_path: Path) -> None:
    """Seen by its content alone; counted once; and over when the file is right again."""
    log = io.StringIO()
    async with spending(tmp_path, log) as (made, write):
        before = (await made.status()).strategy
        (tmp_path / "strategy.yaml").write_text("fallback_strategy: {layers: []}\n")
        await until(lambda: "strategy.refused" in log.getvalue())
        await asyncio.sleep(3 * keeping.LOOK_S)  # once, not at every look
        now = (await made.status()).strategy
        assert (now.sha256, now.loaded, now.refused_count) == (before.sha256, before.loaded, 1)
        assert "layers" in now.refused_why
        assert now.HasField("refused")
        health = health_pb2_grpc.HealthStub(made.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert (await made.ask()).events[-1].HasField("finished")
        told = await reload(made)
        assert not told.applied
        assert [f.severity for f in told.findings] == [wire.SEVERITY_ERROR]

        write(cap="$3")
        await until(lambda: "strategy.reloaded" in log.getvalue())
        now = (await made.status()).strategy
        assert now.sha256 != before.sha256
        assert (now.refused_count, now.refused_why) == (2, "")
        assert not now.HasField("refused")


async def test_a_task_in_flight_ends_on_what_it_began_with_under_the_caps_of_now(
    tmp_path: Path,
) -> None:
    text = """\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      models: [{provider: openai, model: slow, billing: free}]
    - name: paid
      priority: 2
      monthly_cap: %s
      models: [{provider: glm, model: dear, price: {input: 1, output: 2}}]
providers:
  openai: {base_url: <openai>, api_key_env: PROVIDER_KEY}
  glm: {base_url: <glm>, dialect: openai, api_key_env: PROVIDER_KEY}
"""
    slow = ModelScript(first_token_ms=1_500)
    scripts = {"openai": {"slow": slow}, "glm": {"dear": ModelScript(price=PRICE)}}
    async with served(tmp_path, text % "$1", scripts) as made:
        file = tmp_path / "strategy.yaml"
        asking = asyncio.create_task(made.ask())
        await until(lambda: made.calls() == {"slow": 1})
        only = file.read_text().replace("model: slow", "model: other")
        file.write_text(only)
        assert (await reload(made)).applied
        assert [m.target.model for m in (await made.status()).layers[0].models] == ["other"]
        ending = (await asking).events[-1]
        assert ending.finished.report.answered.model == "slow"
        assert made.held() == 0


# ------------------------------------------------------------------------------------------- G9

KEYED = """\
fallback_strategy:
  layers:
    - name: only
      priority: 1
      models: [{provider: openai, model: gpt, billing: free}]
providers:
  openai: {base_url: <openai>, api_key_file: keys/..data/key}
"""


def volume(folder: Path, name: str, key: str) -> None:
    """Swap a key as Kubernetes does: a new folder, and one rename of a symlink to it."""
    held = folder / "keys" / name
    held.mkdir(parents=True)
    (held / "key").write_text(key)
    (held / "key").chmod(0o600)
    os.utime(held / "key", (0, 0))
    (folder / "keys" / "next").symlink_to(name)
    (folder / "keys" / "next").rename(folder / "keys" / "..data")


@pytest.mark.fault("G9")
async def test_a_key_that_is_swapped_by_a_symlink_is_used_without_a_restart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    volume(tmp_path, "..1", CANARY)
    log = io.StringIO()
    script = ProviderScript(models={"gpt": ModelScript()}, api_keys=(FRESH,))
    simulator = Simulator(Scenario(providers={"openai": script}))
    async with (
        serving(tmp_path, KEYED, simulator, {}, log) as running,
        aio.insecure_channel(running.target, options=LOCAL) as channel,
    ):
        made = Served(running, simulator, channel)
        assert not (await made.ask()).events[-1].HasField("finished")
        async with asyncio.timeout(WAIT_S):  # set aside behind the caller's back, for ever
            while (await made.model("gpt")).reason != "cooldown":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        volume(tmp_path, "..2", FRESH)
        await until(lambda: "strategy.reloaded" in log.getvalue())
        assert (await made.ask()).events[-1].HasField("finished")
    out, err = capfd.readouterr()
    for secret in (CANARY, FRESH):
        assert secret not in log.getvalue() + out + err


# -------------------------------------------------------------------------------- CheckStrategy


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    simulator = Simulator(Scenario(providers={"openai": ProviderScript(models=SCRIPTS["openai"])}))
    environ = {"PROVIDER_KEY": "sk-canary-of-the-server", "SEEN": "gpt-seen"}
    text = paid("<openai>").replace("model: gpt", "model: '${SEEN}'")
    async with serving(tmp_path, text, simulator, environ) as made:
        yield made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, ""),
        (paid("http://127.0.0.1:9/v1", cap="$5"), ""),
        (
            paid("http://127.0.0.1:9/v1", cap="$5").replace("model: gpt", "model: '${SEEN}'"),
            "",
        ),
        ("fallback_strategy: {layers: []}", "entry"),
        (paid("http://127.0.0.1:9/v1", name="'${PROVIDER_KEY}'"), "PROVIDER_KEY"),
        ("", "no strategy"),
    ],
)
async def test_a_check_says_what_a_reload_would_and_shows_no_secret(
    running: Running, text: str | None, said: str
) -> None:
    async with aio.insecure_channel(running.target, options=LOCAL) as channel:
        told = await desk(channel).CheckStrategy(wire.CheckStrategyRequest(yaml=text))
        status = await desk(channel).GetStatus(wire.GetStatusRequest())
    valid = not said
    assert told.valid is valid
    errors = [f for f in told.findings if f.severity == wire.SEVERITY_ERROR]
    assert bool(errors) is not valid
    assert said in f"{told}"
    assert "sk-canary" not in f"{told}"
    assert status.strategy.refused_count == 0
    assert list(told.findings) == sorted(told.findings, key=lambda f: f.severity)


def test_only_operators_steer() -> None:
    for method in ("ReloadStrategy", "CheckStrategy"):
        assert ACCESS[f"escalade.v1.OperationsService.{method}"] is Access.OPERATOR


async def test_a_ledger_does_not_move_while_the_server_runs(tmp_path: Path) -> None:
    """Where the file says where it is; what the command says holds anyway."""
    file, state = tmp_path / "s.yaml", tmp_path / "one.sqlite3"
    text = paid("http://127.0.0.1:9/v1") + f"state: {state}\n"
    file.write_text(text)
    for given, code in ((None, ["state_changed"]), (str(state), [])):
        options = Options(strategy=str(file), port=0, state=given, grace_s=0.1)
        running = await start(options, environ={}, log_stream=io.StringIO())
        try:
            file.write_text(text.replace("one.sqlite3", "two.sqlite3"))
            told = await running.strategies.reload()
        finally:
            await running.stop()
            file.write_text(text)
        assert [f.code for f in told.findings if f.severity is Severity.ERROR] == code
        assert told.applied is not bool(code)
