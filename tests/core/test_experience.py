from dataclasses import replace

import pytest

from escalade_server.core.attempt import Live
from escalade_server.core.catalog import Model
from escalade_server.core.commands import ReportHealth, SetBench
from escalade_server.core.experience import Experience
from escalade_server.core.failure import NEVER_MS, Failure, FailureClass, Scope
from escalade_server.core.rules import OnOutage, Rules
from escalade_server.core.standing import Cause, Verdict, VerdictClass
from tests.core.builders import T0, model
from tests.core.parts import live, need, one_layer, spoken

C = FailureClass
MINI = one_layer(model("openai/mini")).models[0]


def learnt(
    failure: Failure,
    *,
    rules: Rules | None = None,
    each: Model = MINI,
    attempt: Live | None = None,
    seen: Experience | None = None,
) -> tuple[Experience, list[SetBench | ReportHealth]]:
    seen = seen or Experience()
    attempt = attempt or live(each, need())
    return seen, seen.learn(attempt, failure, rules or Rules(), 1_234, T0)


def test_a_failed_model_is_tried_and_keeps_its_class() -> None:
    seen, orders = learnt(Failure(C.QUOTA_WINDOW, "used up", reset_at_ms=T0 + 9))

    assert seen.tried == {
        0: Verdict(VerdictClass.TRIED, Cause.FAILED_HERE, "used up", T0 + 9, C.QUOTA_WINDOW)
    }
    (order,) = orders
    assert isinstance(order, SetBench)
    assert (order.key, order.bench.until_ms) == ("openai/default/mini", T0 + 9)
    assert seen.eventful


@pytest.mark.parametrize(
    ("failure", "key", "until_ms"),
    [
        (Failure(C.BALANCE, ""), "openai/default", T0 + 900_000),
        (Failure(C.AUTH, ""), "openai/default", NEVER_MS),
        (Failure(C.RATE_SHORT, ""), "openai/default/mini", T0 + 2_000),
        (Failure(C.RATE_SHORT, "", scope=Scope.PROVIDER), "openai", T0 + 2_000),
    ],
)
def test_the_scope_of_a_failure_is_set_aside(failure: Failure, key: str, until_ms: int) -> None:
    _, (order,) = learnt(failure)

    assert isinstance(order, SetBench)
    assert (order.key, order.bench.until_ms, order.bench.cls) == (key, until_ms, failure.cls)


def test_r9_the_files_cooldown_stands_in_for_a_reset_instant() -> None:
    each = replace(MINI, cooldown_on_limit_ms=86_400_000)
    _, (order,) = learnt(Failure(C.QUOTA_WINDOW, ""), each=each)

    assert isinstance(order, SetBench)
    assert order.bench.until_ms == T0 + 86_400_000


def test_r7_an_outage_puts_out_the_provider_in_this_layer() -> None:
    seen, orders = learnt(Failure(C.OUTAGE, ""))

    assert orders == [ReportHealth("openai", ok=False)]
    assert (seen.out_providers, seen.left_layers) == ({(0, "openai")}, set())


def test_r7_next_layer_leaves_the_layer() -> None:
    seen, _ = learnt(Failure(C.OUTAGE, ""), rules=Rules(on_outage=OnOutage.NEXT_LAYER))

    assert (seen.out_providers, seen.left_layers) == (set(), {0})
    other, _ = learnt(Failure(C.AUTH, ""), rules=Rules(on_outage=OnOutage.NEXT_LAYER))
    assert other.left_layers == set()


RETRY = Rules(on_outage=OnOutage.RETRY_THEN_SKIP)


def test_r8_retry_then_skip_retries_once_in_a_task() -> None:
    seen, orders = learnt(Failure(C.OUTAGE, ""), rules=RETRY)
    assert (seen.tried, seen.retried) == ({}, True)
    assert orders == [ReportHealth("openai", ok=False)]

    learnt(Failure(C.OUTAGE, ""), rules=RETRY, seen=seen)

    assert list(seen.tried) == [0]


@pytest.mark.parametrize("cls", [C.AUTH, C.TIMEOUT, C.QUOTA_WINDOW, C.UNKNOWN])
def test_r8_what_will_not_pass_is_not_retried(cls: FailureClass) -> None:
    seen, _ = learnt(Failure(cls, ""), rules=RETRY)

    assert list(seen.tried) == [0]


def test_r8_a_stall_after_the_first_token_is_judged_by_the_table() -> None:
    attempt = spoken(live(MINI, need()), "word")
    seen, _ = learnt(Failure(C.TIMEOUT, ""), rules=RETRY, attempt=attempt)

    assert list(seen.tried) == [0]


def test_a_window_that_was_too_small_is_remembered() -> None:
    known, _ = learnt(Failure(C.CONTEXT, ""), each=replace(MINI, context_tokens=8_000))
    unknown, _ = learnt(Failure(C.CONTEXT, ""))
    larger, _ = learnt(Failure(C.CONTEXT, ""), seen=Experience(context_floor=9_000))

    assert known.context_floor == 8_000
    assert unknown.context_floor == 1_234
    assert larger.context_floor == 9_000


def test_r21_a_failed_gate_rejects_the_layer() -> None:
    seen = Experience()
    seen.reject(1)

    assert (seen.rejected_layers, seen.eventful) == ({1}, True)


def test_p4_an_account_that_was_closed_is_closed_for_the_task_itself() -> None:
    seen, _ = learnt(Failure(C.BALANCE, "empty"))
    other, _ = learnt(Failure(C.RATE_SHORT, "busy"))

    closed = seen.closed["openai/default"]
    assert (closed.cls, closed.until_ms, closed.failure) == (
        VerdictClass.MONEY,
        T0 + 900_000,
        C.BALANCE,
    )
    assert other.closed == {}


def test_p7_an_overload_is_the_models_own_trouble() -> None:
    _, orders = learnt(Failure(C.OVERLOADED, ""))
    _, once_more = learnt(Failure(C.OVERLOADED, ""), rules=RETRY)
    _, later = learnt(Failure(C.OVERLOADED, "", reset_at_ms=T0 + 9_000), rules=RETRY)

    assert orders[1:] == [ReportHealth("openai/default/mini", ok=False)]
    assert once_more == [], "the retry tells"
    assert len(later) == 2, "who names an instant is not asked again before"
