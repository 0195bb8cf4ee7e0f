from dataclasses import replace

import pytest

from escalade_server.core.absence import Absence, AbsenceKind
from escalade_server.core.catalog import (
    Billing,
    Counter,
    CounterScope,
    DataPolicy,
    Model,
    Period,
    Unit,
)
from escalade_server.core.experience import Experience
from escalade_server.core.failure import NEVER_MS, FailureClass
from escalade_server.core.need import Need
from escalade_server.core.policy import judge, refused
from escalade_server.core.standing import (
    OK,
    Balance,
    Bench,
    Cause,
    Circuit,
    CircuitState,
    Denial,
    Standing,
    Verdict,
    VerdictClass,
)
from escalade_server.core.task import Constraints, DataDemand, Feature, Task, Tool
from tests.core.builders import DAY, T0, cap, model, per_day, request, three_layers
from tests.core.parts import need, one_layer, view

C, V = Cause, VerdictClass
TOKENS = Counter("tokens", Unit.TOKENS, Period.MINUTE, 1_000, CounterScope.MODEL, "1,000 tokens")
MINI = one_layer(model("openai/mini", counters=(per_day("openai", "mini", 50),))).models[0]
PAID = one_layer(model("x/paid", billing=Billing.METERED, counters=(cap("x", 10**9),))).models[0]
NEVER_FULL = (V.RATE, V.MONEY)


def verdict(
    each: Model,
    *,
    wanted: Need | None = None,
    standing: Standing | None = None,
    seen: Experience | None = None,
    require: bool = False,
    consent_required: bool = False,
) -> Verdict:
    layer = replace(one_layer(each), name="free", consent_required=consent_required)
    looked = view(wanted or need(), standing=standing, seen=seen, require=require)
    found, candidate = judge(layer.models[0], layer, looked)
    assert (candidate is not None) is (found is OK)
    assert judge(layer.models[0], layer, replace(looked, plain=False))[0] == found
    return found


def limited(constraints: Constraints) -> Need:
    return need(req=request(constraints=constraints))


def row(counter: Counter, spent: int, held: int = 0, ends_ms: int = DAY) -> Standing:
    return Standing({counter.key: Balance("w", spent, held, ends_ms)})


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        (Constraints(), None),
        (Constraints(free_only=True), None),
        (Constraints(lowest_layer="budget"), C.CONSTRAINT),
        (Constraints(denied_models=("mini",)), C.CONSTRAINT),
        (Constraints(denied_models=("openai/mini",)), C.CONSTRAINT),
        (Constraints(denied_models=("openai/default/mini",)), C.CONSTRAINT),
        (Constraints(denied_models=("google/mini",)), None),
        (Constraints(allowed_models=("gpt", "mini")), None),
        (Constraints(allowed_models=("gpt",)), C.CONSTRAINT),
    ],
)
def test_r5_limits_of_the_caller_are_policy(limits: Constraints, cause: Cause | None) -> None:
    found = verdict(MINI, wanted=limited(limits))

    assert (found.cls, found.cause) == ((V.POLICY, cause) if cause else (V.OK, C.NONE))


def test_r16_free_only_admits_free_layers_only() -> None:
    mixed = one_layer(model("a/free"), model("a/paid", billing=Billing.SUBSCRIPTION))
    looked = view(limited(Constraints(free_only=True)))

    assert [judge(m, mixed, looked)[0].cause for m in mixed.models] == [C.FREE_ONLY, C.FREE_ONLY]


@pytest.mark.parametrize(("consented", "open_"), [((), False), (("free",), True), (("*",), True)])
def test_r28_a_layer_that_needs_consent(consented: tuple[str, ...], *, open_: bool) -> None:
    wanted = limited(Constraints(consented_layers=consented))
    found = verdict(MINI, wanted=wanted, consent_required=True)

    assert found.cause is (C.NONE if open_ else C.CONSENT)


@pytest.mark.parametrize("data", DataPolicy)
@pytest.mark.parametrize(
    ("demand", "admitted"),
    [
        (DataDemand.NONE, set(DataPolicy)),
        (DataDemand.NO_TRAINING, {DataPolicy.LOCAL, DataPolicy.NO_TRAINING}),
        (DataDemand.PRIVATE, {DataPolicy.LOCAL}),
    ],
)
def test_r28_what_a_demand_for_the_data_admits(
    data: DataPolicy, demand: DataDemand, admitted: set[DataPolicy]
) -> None:
    wanted = need(req=request(task=Task(type="parse", data_demand=demand)))
    found = verdict(replace(MINI, data=data), wanted=wanted)

    assert found.cause is (C.NONE if data in admitted else C.DATA_POLICY)


def test_what_a_model_cannot_do_is_unfit() -> None:
    tools = need(req=replace(request(), tools=(Tool("f", "", "{}"),)))
    no_tools = replace(MINI, features=frozenset({Feature.IMAGES}))
    long = need(req=request("x" * 40_000))
    small = replace(MINI, context_tokens=8_000)

    assert verdict(no_tools, wanted=tools) == Verdict(V.UNFIT, C.FEATURE_MISSING, "has no tools")
    assert verdict(small, wanted=long).detail == "about 10,008 tokens do not fit into 8,000"
    assert verdict(small) is OK
    assert (
        verdict(small, seen=Experience(eventful=True, context_floor=8_000)).cause
        is C.CONTEXT_TOO_SMALL
    )
    assert verdict(small, seen=Experience(eventful=True, context_floor=7_999)) is OK


def test_r2_require_drops_models_without_the_capability() -> None:
    assert verdict(MINI) is OK
    assert verdict(MINI, require=True).cause is C.CAPABILITY_MISSING
    assert verdict(replace(MINI, capabilities=frozenset({"parsing"})), require=True) is OK


def test_r5_what_happened_in_this_task_counts() -> None:
    failed = Verdict(V.TRIED, C.FAILED_HERE, "broke", None, FailureClass.TIMEOUT)
    tried = Experience(eventful=True, tried={0: failed})
    rejected = Experience(eventful=True, rejected_layers={0})
    left = Experience(eventful=True, left_layers={0})
    out = Experience(eventful=True, out_providers={(0, "openai")})
    other = Experience(eventful=True, out_providers={(0, "google"), (1, "openai")})

    assert verdict(MINI, seen=tried) is failed
    assert verdict(MINI, seen=rejected).cls is V.REJECTED
    assert verdict(MINI, seen=left).cause is C.FAILED_HERE
    assert verdict(MINI, seen=out).cls is V.DOWN
    assert verdict(MINI, seen=other) is OK


@pytest.mark.parametrize(
    ("kind", "cause"),
    [(AbsenceKind.NO_KEY, C.NO_KEY), (AbsenceKind.NOT_BUILT, C.NOT_BUILT)],
)
def test_a_model_that_this_server_cannot_call_is_down_for_good(
    kind: AbsenceKind, cause: Cause
) -> None:
    found = verdict(replace(MINI, absence=Absence(kind, "OPENAI_API_KEY is not set")))

    assert found == Verdict(V.DOWN, cause, "OPENAI_API_KEY is not set", NEVER_MS)


@pytest.mark.parametrize("key", ["openai/default/mini", "openai/default", "openai"])
@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (FailureClass.RATE_SHORT, V.RATE),
        (FailureClass.QUOTA_WINDOW, V.RATE),
        (FailureClass.SPEND_CAP, V.MONEY),
        (FailureClass.BALANCE, V.MONEY),
        (FailureClass.OUTAGE, V.DOWN),
        (FailureClass.AUTH, V.DOWN),
        (FailureClass.MODEL_GONE, V.DOWN),
    ],
)
def test_r5_a_cooldown_keeps_the_class_of_its_failure(
    key: str, cls: FailureClass, expected: VerdictClass
) -> None:
    standing = Standing(benches={key: Bench(T0 + 1, cls, "set aside")})

    found = verdict(MINI, standing=standing)

    assert found == Verdict(expected, C.COOLDOWN, "set aside", T0 + 1, cls)
    over = Standing(benches={key: Bench(T0, cls, "set aside")})
    assert verdict(MINI, standing=over) is OK


def test_r35_an_open_circuit_is_down_and_a_half_open_one_is_probed() -> None:
    def circuit(state: CircuitState, until_ms: int) -> Standing:
        return Standing(circuits={"openai": Circuit(state, until_ms)})

    found = verdict(MINI, standing=circuit(CircuitState.OPEN, T0 + 1))
    assert (found.cls, found.cause, found.until_ms) == (V.DOWN, C.CIRCUIT_OPEN, T0 + 1)
    assert verdict(MINI, standing=circuit(CircuitState.OPEN, T0)) is OK
    assert verdict(MINI, standing=circuit(CircuitState.HALF_OPEN, T0 + 1)) is OK
    elsewhere = Standing(circuits={"google": Circuit(CircuitState.OPEN, T0 + 1)})
    assert verdict(MINI, standing=elsewhere) is OK


DAILY = MINI.counters[0]
CAP = PAID.counters[0]


@pytest.mark.parametrize(
    ("each", "standing", "cls", "cause"),
    [
        (MINI, row(DAILY, 49), V.OK, C.NONE),
        (MINI, row(DAILY, 50), V.RATE, C.WINDOW_FULL),
        (MINI, row(DAILY, 50, ends_ms=T0), V.OK, C.NONE),
        (MINI, row(DAILY, 49, 1), V.HELD, C.HELD),
        (PAID, row(CAP, 10**9), V.MONEY, C.CAP_SPENT),
        (PAID, row(CAP, 0, 10**9), V.HELD, C.HELD),
        (PAID, row(CAP, 10**9, ends_ms=T0), V.OK, C.NONE),
        (replace(MINI, counters=(TOKENS,)), row(TOKENS, 1_000), V.RATE, C.WINDOW_FULL),
    ],
)
def test_r14_held_is_not_spent(
    each: Model, standing: Standing, cls: VerdictClass, cause: Cause
) -> None:
    found = verdict(each, standing=standing)

    assert (found.cls, found.cause) == (cls, cause)
    assert found.until_ms == (DAY if cls in NEVER_FULL else None)


def test_a_cap_that_is_not_spent_yet_says_that_too_little_is_left() -> None:
    assert verdict(PAID, standing=row(CAP, 10**9)).detail == "$1.00 of $1.00 this month"
    nearly = verdict(PAID, standing=row(CAP, 10**9 - 100_000))
    assert nearly.detail == "$0.9999 of $1.00 this month, which leaves too little"


@pytest.mark.parametrize(
    ("counter", "words"),
    [
        (per_day("a", "b", 0), "whole of 0 (0/day)"),
        (cap("a", 1_000), "whole of $0.0000010 (a cap)"),
        (replace(TOKENS, limit=10), "whole of 10 (1,000 tokens)"),
    ],
)
def test_r14_what_is_larger_than_a_whole_window_never_fits(counter: Counter, words: str) -> None:
    found = verdict(model("a/b", counters=(counter,)))

    assert (found.cls, found.cause, found.until_ms) == (V.UNFIT, C.NEVER_FITS, NEVER_MS)
    assert words in found.detail


def test_r15_the_spend_limit_counts_paid_models_at_their_worst_case() -> None:
    worst = need().candidate(PAID, None).nanos

    def after(spent: int, most: int, each: Model = PAID) -> Verdict:
        wanted = limited(Constraints(spend_limit_nanos=most))
        return verdict(each, wanted=wanted, seen=Experience(spent_nanos=spent))

    assert after(0, worst) is OK
    assert after(0, worst - 1).cause is C.SPEND_LIMIT
    assert after(1, worst).cls is V.MONEY
    assert after(1, worst, MINI) is OK


def denied(each: Model, counter: Counter, *, held_only: bool = False, fits: bool = True) -> Verdict:
    balance = Balance("w", counter.limit, 1, DAY)
    candidate = need().candidate(each, None)
    denial = Denial(each.position, counter.key, balance, 1, held_only, not fits)
    (found,) = refused((candidate,), (denial,))
    assert (found.layer, found.model) == (each.layer, each)
    return found.verdict


def test_p20_the_stores_own_refusal_becomes_a_verdict() -> None:
    assert denied(MINI, DAILY).cause is C.WINDOW_FULL
    assert denied(MINI, DAILY).detail == "51 of 50 requests today"
    assert denied(PAID, CAP).cause is C.CAP_SPENT
    assert denied(MINI, DAILY, held_only=True).cause is C.HELD
    assert denied(MINI, DAILY, fits=False).cause is C.NEVER_FITS
    assert refused((), ()) == ()


def test_judging_the_reference_strategy_with_nothing_in_the_way() -> None:
    strategy = three_layers()
    looked = view(need(strategy))

    assert all(judge(m, strategy.layers[m.layer_index], looked)[0] is OK for m in strategy.models)
