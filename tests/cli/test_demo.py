"""The demo as its users run it: a real command, whose words and exit code must be true."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from escalade.v1.escalation_pb2 import (
    Attempt,
    AttemptStatus,
    ModelRef,
    Quota,
    QuotaUnit,
    Report,
    VerdictClass,
)
from escalade.v1.operations_service_pb2 import (
    CircuitState,
    GetStatusResponse,
    LayerStatus,
    ModelStatus,
)
from escalade_server.cli import panel
from escalade_server.cli.demo import STRATEGY
from escalade_server.cli.demo_before import before
from escalade_server.cli.demo_books import Account, Books, audit
from escalade_server.cli.demo_day import FREE_REQUESTS, job, scenario
from escalade_server.provider_simulator import Account as Bill
from escalade_server.provider_simulator import Ledger
from escalade_server.strategy.load import loads

COMMAND = Path(sys.executable).with_name("escalade")
README = Path(__file__).resolve().parents[2] / "README.md"
REFERENCE = Path(__file__).resolve().parents[1] / "strategies" / "fallback-v2.yaml"
TIMEOUT_S = 100.0
ESCAPE = b"\x1b"
TASKS = sum(len(step.chores) for step in job())


def demo(
    folder: Path, *options: str, encoding: str = "utf-8"
) -> subprocess.CompletedProcess[bytes]:
    """Run the demo without pauses; it may leave nothing in ``folder`` when all went well."""
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONIOENCODING": encoding}
    return subprocess.run(
        [COMMAND, "demo", "--pace", "0", *options],
        capture_output=True,
        check=False,
        env=environment,
        timeout=TIMEOUT_S,
    )


def summary(ran: subprocess.CompletedProcess[bytes]) -> dict[str, object]:
    return cast("dict[str, object]", json.loads(ran.stdout))


def reasons(told: dict[str, object]) -> set[tuple[str, str, str]]:
    rows = cast("list[dict[str, str]]", told["escalations"])
    return {(row["from_layer"], row["to_layer"], row["reason"]) for row in rows}


def test_the_day_shows_everything_and_loses_nothing(tmp_path: Path) -> None:
    ran = demo(tmp_path, "--json")
    assert ran.returncode == 0, ran.stderr.decode()
    told = summary(ran)
    assert told["tasks"] == TASKS
    assert told["lost"] == []
    free, budget, premium = "free_primary", "budget_subscription", "premium_reserve"
    assert reasons(told) == {
        (free, budget, "RATE_LIMIT"),
        (free, budget, "OUTAGE"),
        (free, premium, "COMPLEXITY"),
        (free, budget, "DOWNGRADE"),
    }
    assert told["retractions"] == 1
    assert cast("int", told["fallbacks"]) > 0
    was = cast("dict[str, object]", told["before"])
    assert (was["step"], was["died_at_call"]) == (4, FREE_REQUESTS + 1)
    books = cast("dict[str, object]", told["books"])
    assert books["differences"] == []
    assert books["provider_calls"] == books["our_calls"]
    assert list(tmp_path.iterdir()) == []


def test_an_outage_of_the_users_choice_loses_nothing(tmp_path: Path) -> None:
    ran = demo(tmp_path, "--json", "--break", "openai")
    assert ran.returncode == 0, ran.stderr.decode()
    told = summary(ran)
    assert told["lost"] == []
    assert cast("dict[str, object]", told["books"])["differences"] == []


def test_without_any_provider_it_says_what_is_lost_and_fails(tmp_path: Path) -> None:
    down = [word for name in scenario().providers for word in ("--break", name)]
    ran = demo(tmp_path, *down)
    assert ran.returncode == 1
    text = ran.stdout.decode()
    assert f"{TASKS} tasks lost: 0 of {TASKS} answered" in text
    assert "no model is reachable" in text
    (kept,) = tmp_path.iterdir()
    assert str(kept).encode() in ran.stderr
    assert (kept / "server.log").stat().st_size > 0


def shape(line: str) -> str:
    """A line without its figures, which are those of one run."""
    return re.sub(r"[\d.,]+", "#", " ".join(line.split()))


def test_it_shows_what_the_readme_says(tmp_path: Path) -> None:
    ran = demo(tmp_path)
    assert ran.returncode == 0, ran.stderr.decode()
    shown = [shape(line) for line in ran.stdout.decode().splitlines()]
    (promised,) = re.findall(
        r"From its output:\n\n```text\n(.*?)```", README.read_text(), re.DOTALL
    )
    lines = [shape(line) for line in promised.splitlines()]
    assert len(lines) > 10
    for line in lines:
        assert any(told.startswith(line) for told in shown), line


def test_without_a_terminal_it_prints_plain_lines_in_any_encoding(tmp_path: Path) -> None:
    ran = demo(tmp_path, encoding="ascii")
    assert ran.returncode == 0, ran.stderr.decode()
    assert ESCAPE not in ran.stdout
    lines = ran.stdout.decode("ascii").splitlines()
    assert sum(line.startswith(("+", ">", "^", "v")) for line in lines) >= TASKS
    assert f"0 tasks lost: {TASKS} of {TASKS} answered" in ran.stdout.decode()


def test_ctrl_c_on_a_terminal_stops_everything(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    shown = bytearray()
    begun = threading.Event()

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 65_536)
            except OSError:  # the other end is closed
                begun.set()
                return
            shown.extend(piece)
            if b"plan pages" in shown:
                begun.set()

    process = subprocess.Popen(
        [COMMAND, "demo"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TMPDIR": str(tmp_path), "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert begun.wait(TIMEOUT_S)
        assert b"plan pages" in shown, shown.decode(errors="replace")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
    finally:
        process.kill()
        process.wait()
        reader.join(TIMEOUT_S)
        os.close(ours)
    assert b"the server and the simulated providers are down" in shown
    assert b"\x1b[?25h" in shown  # the cursor is back
    assert list(tmp_path.iterdir()) == []


async def test_the_job_on_one_free_model_dies_where_its_quota_ends() -> None:
    was = await before(job())
    assert (was.calls, was.died_at, was.status) == (FREE_REQUESTS + 1, FREE_REQUESTS + 1, 429)
    assert was.step == 4
    assert "requests per day" in was.message


async def test_a_job_within_the_quota_does_not_die() -> None:
    was = await before(job()[:3])
    assert was.died_at is None
    assert was.calls == was.total < FREE_REQUESTS


def test_the_strategy_is_the_reference_but_for_three_values() -> None:
    ours = loads(STRATEGY.read_text(), environ={}, assume_keys=True).catalog
    theirs = loads(REFERENCE.read_text(), environ={}, assume_keys=True).catalog
    assert [(m.key, m.capabilities, m.price) for m in ours.models] == [
        (m.key, m.capabilities, m.price) for m in theirs.models
    ]
    limits = {c.key: c.limit for m in theirs.models for c in m.counters}
    changed = {c.key: c.limit for m in ours.models for c in m.counters if limits[c.key] != c.limit}
    assert list(changed) == ["nanos/month:layer/premium_reserve"]


def test_every_model_of_the_strategy_is_simulated_at_its_list_price() -> None:
    played = scenario().providers
    for model in loads(STRATEGY.read_text(), environ={}, assume_keys=True).catalog.models:
        price = played[model.provider].models[model.wire_id].price
        assert price.input_pico == model.price.input_picos, model.key
        assert price.output_pico == model.price.output_picos, model.key


def booked(calls: int, reported_nanos: int, bounded_nanos: int = 0) -> Books:
    account = Account(calls, reported_nanos, bounded_nanos, int(bounded_nanos > 0))
    return Books({}, accounts={("p", "m"): account})


def billed(calls: int, cost_pico: int) -> Ledger:
    bill = Bill(provider="p", model="m", requests_received=calls, cost_pico=cost_pico)
    return Ledger({("p", "m"): bill})


@pytest.mark.parametrize(
    ("books", "ledger", "agree"),
    [
        (booked(2, 500), billed(2, 500_000), True),
        (booked(2, 500), billed(2, 498_500), True),  # each call is rounded up to a nano-dollar
        (booked(2, 500), billed(2, 497_000), False),  # we charge more than is billed
        (booked(2, 500), billed(2, 501_000), False),  # we miss a cost
        (booked(2, 500), billed(3, 500_000), False),  # we miss a call
        (booked(2, 500, 300), billed(2, 700_000), True),  # inside the bound
        (booked(2, 500, 300), billed(2, 801_000), False),  # above the bound
        (Books({}), billed(1, 0), False),  # a call that we know nothing of
    ],
)
def test_the_audit_sees_any_difference(books: Books, ledger: Ledger, *, agree: bool) -> None:
    found = audit(books, ledger)
    assert (not found.differences) is agree


def test_a_call_that_was_never_sent_is_not_booked() -> None:
    books = Books({})
    attempt = Attempt(
        attempt=1, status=AttemptStatus.ATTEMPT_STATUS_NOT_SENT, target=ModelRef(provider="p")
    )
    books._add_attempts(Report(attempts=[attempt]), {})
    assert books.calls == 0


def quota(unit: QuotaUnit.ValueType, spent: int, limit: int) -> Quota:
    return Quota(unit=unit, spent=spent, limit=limit)


def model(
    name: str, *quotas: Quota, circuit: CircuitState.ValueType, reason: str = ""
) -> ModelStatus:
    verdict = VerdictClass.VERDICT_CLASS_RATE if reason else VerdictClass.VERDICT_CLASS_OK
    return ModelStatus(
        target=ModelRef(layer="free_primary", provider="p", model=name),
        quotas=quotas,
        circuit=circuit,
        verdict=verdict,
        reason=reason,
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_panel_fits_its_terminal_and_shows_the_tightest_quota(width: int) -> None:
    requests, tokens = QuotaUnit.QUOTA_UNIT_REQUESTS, QuotaUnit.QUOTA_UNIT_TOKENS
    closed, half = CircuitState.CIRCUIT_STATE_CLOSED, CircuitState.CIRCUIT_STATE_HALF_OPEN
    full = (quota(requests, 50, 50), quota(tokens, 10, 100_000))
    cap = quota(QuotaUnit.QUOTA_UNIT_NANO_USD, 96_400_000, 100_000_000)
    status = GetStatusResponse(
        layers=[
            LayerStatus(
                name="free_primary",
                models=[
                    model("gpt-4o-mini", *full, circuit=closed, reason="window_full"),
                    model("a/very-long-name-of-a-model-indeed", circuit=half),
                ],
            ),
            LayerStatus(
                name="premium_reserve",
                quotas=[cap],
                models=[model("x", circuit=closed), model("y", circuit=closed)],
            ),
        ]
    )
    out = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    with out.file:
        out.print(panel.bars(status, out))
    lines = out.export_text().splitlines()
    assert len(lines) == 4
    assert all(len(line) <= width for line in lines)
    assert "50/50 req used up" in lines[0]
    assert "unlimited" in lines[1]
    assert "to be probed" in lines[1]
    assert "$0.0964/$0.1000" in lines[2]
    assert "same cap" in lines[3]
