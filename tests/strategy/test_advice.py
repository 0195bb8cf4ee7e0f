"""Advice that needs nothing but the file, and the printed schema and vocabulary (R36)."""

import json

import pytest

from escalade_server.strategy.model import StrategyFile, schema
from escalade_server.strategy.vocabulary import vocabulary
from tests.strategy.strategies import GOOD, changed, loaded, reference, with_more

ONE_LAYER = GOOD[: GOOD.index("    - name: premium")]
OTHER = changed(
    "provider: openai\n          model: gpt-4o\n",
    "provider: deepseek\n          model: deepseek-flash\n",
)


def advised(text: str) -> list[tuple[str, int]]:
    return [(notice.code, notice.line) for notice in loaded(text).notices]


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        (ONE_LAYER, "NO_WAY_UP", 3),
        (GOOD, "ONE_PROVIDER", 3),
        (changed("cost_per_month: 0", "monthly_cap: 3"), "PAID_FIRST", 6),
        (GOOD, "FREE_BUT_PRICED", 6),
        (changed("rate_limit: 50/day", "rate_limit: unlimited"), "UNLIMITED_MODEL", 6),
        (changed("[parsing]", "[parsng]"), "UNKNOWN_CAPABILITY", 6),
        (
            changed("- free.exhausted\n        - task.complexity > 8", "- premium.exhausted"),
            "NEVER_ENTERED",
            17,
        ),
        (
            changed("- free.exhausted\n        - task.complexity > 8", "- task.complexity > 10"),
            "NEVER_ENTERED",
            17,
        ),
        (changed("monthly_cap: 5_usd", "monthly_cap: 0.04"), "NEVER_FITS", 14),
        (changed("monthly_cap: 5_usd", "monthly_cap: 0"), "NEVER_FITS", 14),
        (changed("50/day", "0/day"), "NEVER_FITS", 6),
        (GOOD + "  escalation_logic: {rate_limit_hit: next_model}\n", "RATE_LIMIT_STAYS", 0),
        (changed("cost_per_month: 0", "cost_per_month: 0\n      monthly_cap: 1"), "CAP_ON_FREE", 3),
    ],
)
def test_r36_advice_names_its_line(text: str, code: str, line: int) -> None:
    assert (code, line) in advised(text)


@pytest.mark.parametrize(
    "code",
    ["NO_WAY_UP", "ONE_PROVIDER", "PAID_FIRST", "NEVER_ENTERED", "NEVER_FITS", "RATE_LIMIT_STAYS"],
)
def test_no_advice_where_there_is_nothing_to_mend(code: str) -> None:
    assert code not in {found for found, _ in advised(OTHER)}
    assert code not in {notice.code for notice in reference(1).notices}
    assert code not in {notice.code for notice in reference(2).notices}


def test_every_notice_reads_as_a_sentence_with_a_mend() -> None:
    for notice in (*reference(1).notices, *reference(2).notices):
        assert notice.sentence.endswith(".")
        assert str(notice).startswith(f"{notice.level.value} {notice.code}: line")


def test_the_schema_knows_every_key_and_allows_no_other() -> None:
    made = schema()
    definitions = made["$defs"]
    assert isinstance(definitions, dict)

    assert set(StrategyFile.model_fields) == set(made["properties"])  # type: ignore[call-overload]
    for name, section in definitions.items():
        assert "enum" in section or section["additionalProperties"] is False, name
    assert json.loads(json.dumps(made)) == made
    assert '"null"' not in json.dumps(made)


def test_the_schema_takes_the_short_forms() -> None:
    definitions = schema()["$defs"]
    assert isinstance(definitions, dict)

    forms = json.dumps(definitions["Model"]["properties"]["rate_limit"])
    assert '"#/$defs/RateLimit"' in forms
    assert '"type": "string"' in forms
    assert "anyOf" in definitions["Layer"]["properties"]["trigger"]


def test_r2_the_vocabulary_can_be_printed() -> None:
    assert vocabulary()["parse"]["any_of"] == ["parsing", "simple-tasks"]
    assert vocabulary()["other"] == {"depth": 5, "any_of": [], "aliases": []}
    assert with_more("") == GOOD
