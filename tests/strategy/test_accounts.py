"""Several accounts of one provider: where models stand, what they share, what is refused (R18)."""

from pathlib import Path

import pytest

from escalade_server.core.absence import AbsenceKind
from escalade_server.core.catalog import Billing, Model
from escalade_server.strategy.errors import StrategyErrors
from escalade_server.strategy.load import load
from tests.strategy.strategies import GOOD, TODAY, loaded, with_more

USD = 1_000_000_000
KEYS = {"WORK": "key-work", "SPARE": "key-spare"}
TWO = "providers: {openai: {accounts: {work: {api_key_env: WORK}, spare: {api_key_env: SPARE}}}}\n"


def models(text: str) -> tuple[Model, ...]:
    return loaded(text, KEYS).catalog.models


def rate_keys(model: Model) -> list[str]:
    return [c.key for c in model.counters if not c.key.startswith("nanos")]


def refused(text: str) -> list[str]:
    with pytest.raises(StrategyErrors) as caught:
        loaded(text, KEYS)
    return [str(error) for error in caught.value.errors]


def test_a_model_is_offered_on_every_account_in_order() -> None:
    found = models(with_more(TWO))

    assert [(m.key, m.layer, m.position) for m in found] == [
        ("openai/work/gpt-4o-mini", "free", 0),
        ("openai/spare/gpt-4o-mini", "free", 1),
        ("openai/work/gpt-4o", "premium", 2),
        ("openai/spare/gpt-4o", "premium", 3),
    ]
    assert found[0].capabilities == found[1].capabilities == {"parsing"}


def test_account_pins_a_model_to_one() -> None:
    text = with_more(TWO).replace("model: gpt-4o\n", "model: gpt-4o\n          account: spare\n")

    assert [m.key for m in models(text)] == [
        "openai/work/gpt-4o-mini",
        "openai/spare/gpt-4o-mini",
        "openai/spare/gpt-4o",
    ]


def test_one_key_is_the_account_default() -> None:
    found = loaded(with_more("providers: {openai: {api_key_env: WORK}}\n"), KEYS)

    assert [m.account for m in found.catalog.models] == ["default", "default"]
    pinned = GOOD.replace("model: gpt-4o\n", "model: gpt-4o\n          account: default\n")
    assert [m.key for m in loaded(pinned).catalog.models][1] == "openai/default/gpt-4o"


def test_r18_rate_limits_count_by_account_and_money_over_all() -> None:
    text = GOOD.replace("model: gpt-4o\n", "model: gpt-4o\n          monthly_cap: 3\n") + (
        "providers:\n"
        "  openai:\n"
        "    monthly_cap: 9\n"
        "    rate_limit: 5/minute\n"
        "    reset_zone: Europe/Berlin\n"
        "    accounts:\n"
        "      work: {api_key_env: WORK}\n"
        "      spare: {api_key_env: SPARE, rate_limit: 7/day, reset_zone: Asia/Tokyo}\n"
    )
    work, spare, *premium = models(text)

    assert [(c.key, c.limit, c.zone, c.label) for c in work.counters] == [
        (
            "requests/day:openai/work/gpt-4o-mini",
            50,
            "Europe/Berlin",
            "gpt-4o-mini (work) requests/day",
        ),
        ("requests/minute:openai/work", 5, "UTC", "openai/work requests/minute"),
    ]
    assert [(c.key, c.limit, c.zone, c.label) for c in spare.counters] == [
        (
            "requests/day:openai/spare/gpt-4o-mini",
            50,
            "Asia/Tokyo",
            "gpt-4o-mini (spare) requests/day",
        ),
        ("requests/day:openai/spare", 7, "Asia/Tokyo", "openai/spare requests/day"),
    ]
    for model in premium:
        money = [(c.key, c.limit) for c in model.counters if c.key.startswith("nanos")]
        assert money == [
            ("nanos/month:openai/gpt-4o", 3 * USD),
            ("nanos/month:layer/premium", 5 * USD),
            ("nanos/month:provider/openai", 9 * USD),
        ]


def test_a_cap_over_two_accounts_is_one_fee() -> None:
    text = (
        GOOD.replace("      monthly_cap: 5_usd\n", "").replace(
            "model: gpt-4o\n", "model: gpt-4o\n          monthly_cap: 3\n"
        )
        + TWO
    )
    premium = loaded(text, KEYS).catalog.layers[1]

    assert [m.billing for m in premium.models] == [Billing.SUBSCRIPTION] * 2
    assert premium.fee_nanos == 3 * USD


@pytest.mark.fault("G10")
def test_g10_accounts_of_one_group_count_rate_limits_together() -> None:
    groups = TWO.replace("WORK}", "WORK, quota_group: team}")
    groups = groups.replace("SPARE}", "SPARE, quota_group: team, rate_limit: 9/hour}")
    work, spare, *_ = models(with_more(groups))

    assert rate_keys(work) == ["requests/day:@team/gpt-4o-mini"]
    assert rate_keys(spare) == ["requests/day:@team/gpt-4o-mini", "requests/hour:@team"]
    assert [c.label for c in spare.counters] == [
        "gpt-4o-mini (team) requests/day",
        "quota group team requests/hour",
    ]
    whole = with_more(TWO.replace("openai: {", "openai: {quota_group: all, "))
    assert [rate_keys(m) for m in models(whole)[:2]] == [["requests/day:@all/gpt-4o-mini"]] * 2


def test_r18_a_cap_stated_once_holds_on_every_account() -> None:
    text = GOOD.replace(
        "          model: gpt-4o\n",
        "          model: gpt-4o\n          account: work\n          monthly_cap: 3\n"
        "        - {provider: openai, model: gpt-4o, account: spare}\n",
    )
    found = models(text + TWO)

    capped = [m for m in found if "nanos/month:openai/gpt-4o" in {c.key for c in m.counters}]
    assert [m.key for m in capped] == ["openai/work/gpt-4o", "openai/spare/gpt-4o"]
    assert {c.limit for m in capped for c in m.counters if "openai" in c.key} == {3 * USD}


def test_r15_a_cap_elsewhere_does_not_count_free_calls() -> None:
    text = GOOD.replace(
        "          model: gpt-4o\n",
        "          model: gpt-4o-mini\n          account: spare\n          monthly_cap: 3\n",
    ).replace("rate_limit: 50/day", "account: work")
    free, paid = models(text + TWO)

    assert free.counters == ()
    assert next(c.key for c in paid.counters) == "nanos/month:openai/gpt-4o-mini"


def test_r18_two_caps_for_one_counter_are_refused_with_both_lines() -> None:
    text = GOOD.replace(
        "          model: gpt-4o\n",
        "          model: gpt-4o\n          account: work\n          monthly_cap: 3\n"
        "        - provider: openai\n          model: gpt-4o\n          account: spare\n"
        "          monthly_cap: 4\n",
    )
    (error,) = refused(text + TWO)

    assert "s.yaml:20:" in error
    assert "gpt-4o monthly cap is counted once, and has two limits" in error
    assert "line 16 says otherwise" in error


@pytest.mark.fault("G10")
def test_g10_two_limits_of_one_group_are_refused() -> None:
    text = GOOD.replace(
        "          capabilities: [parsing]\n",
        "          account: work\n"
        "        - {provider: openai, model: gpt-4o-mini, account: spare, rate_limit: 60/day}\n",
    )
    groups = TWO.replace("}, spare", ", quota_group: g}, spare").replace(
        "SPARE}", "SPARE, quota_group: g}"
    )
    (error,) = refused(text + groups)

    assert "s.yaml:9:" in error
    assert "line 7 says otherwise" in error
    assert models(text + TWO)[1].counters[0].limit == 60


SAME = "        - {provider: openai, model: gpt-4o-mini%s}\n"


@pytest.mark.parametrize("pin", ["", ", account: spare"])
def test_r34_the_same_model_twice_on_an_account_is_an_error(pin: str) -> None:
    text = GOOD.replace("      priority: 1\n", SAME % pin + "      priority: 1\n")

    (error,) = refused(text + TWO)
    assert "s.yaml:9:" in error
    assert "the model stands in the file twice" in error
    assert "line 6" in error


def test_r34_on_different_accounts_it_is_allowed() -> None:
    text = GOOD.replace(
        "          capabilities: [parsing]\n",
        "          account: work\n" + SAME % ", account: spare",
    )

    assert [m.key for m in models(text + TWO)][:2] == [
        "openai/work/gpt-4o-mini",
        "openai/spare/gpt-4o-mini",
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            GOOD.replace("model: gpt-4o\n", "model: gpt-4o\n          account: wrk\n") + TWO,
            15,
            'did you mean "work"?',
        ),
        (
            GOOD.replace("model: gpt-4o\n", "model: gpt-4o\n          account: work\n"),
            15,
            "name it under",
        ),
        (
            with_more(TWO.replace("{accounts", "{api_key_env: WORK, accounts")),
            20,
            "move it to one of the accounts",
        ),
        (with_more(TWO.replace("SPARE", "WORK")), 20, "two accounts have one key"),
        (
            with_more(TWO.replace("env: SPARE", "env: SPARE, api_key_file: f")),
            20,
            "api_key_env says the same",
        ),
        (with_more("providers: {openai: {accounts: {}}}\n"), 20, "one entry or more"),
        (
            with_more("providers: {openai: {accounts: {a: {reset_zone: Europe/Berln}}}}\n"),
            20,
            "Berlin",
        ),
        (with_more("providers: {openai: {accounts: {a: {key: x}}}}\n"), 20, "quota_group"),
    ],
)
def test_what_is_wrong_with_accounts_is_said(text: str, line: int, words: str) -> None:
    errors = refused(text)

    assert any(f"s.yaml:{line}:" in error and words in error for error in errors), errors


def test_the_key_of_one_account_missing_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "spare").write_text("key-from-file\n")
    (tmp_path / "spare").chmod(0o600)
    file = tmp_path / "s.yaml"
    file.write_text(GOOD + TWO.replace("api_key_env: SPARE", "api_key_file: spare, concurrency: 3"))
    found = load(file, environ={}, today=TODAY)

    absences = [model.absence for model in found.catalog.models]
    assert [a and (a.kind, a.detail) for a in absences] == [
        (AbsenceKind.NO_KEY, "set WORK"),
        None,
    ] * 2
    spare = found.endpoints["openai", "spare"].secret
    assert spare is not None
    assert spare.reveal() == "key-from-file"
    assert found.endpoints["openai", "work"].missing == "set WORK"
    notices = [(n.line, n.sentence) for n in found.notices if n.code == "NO_KEY"]
    assert notices == [(20, "openai (work) has no usable key: set WORK.")]
    assert [model.pace.concurrency for model in found.catalog.models] == [
        (), (("openai/spare", 3),),
    ] * 2  # fmt: skip
    assert "key-from-file" not in repr(found)


def test_advice_is_given_once_for_all_accounts() -> None:
    text = with_more(TWO).replace("gpt-4o\n", "gpt-unheard-of\n")

    found = [n.code for n in loaded(text, KEYS).notices]
    assert found.count("PRICE_UNKNOWN") == 1
