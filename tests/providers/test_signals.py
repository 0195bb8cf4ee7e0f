"""Every signal of every vendor, and that no row of the tables is idle (provider-signals B1)."""

import dataclasses
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core.failure import FailureClass, Scope
from escalade_server.providers import bounded_json, error_body
from escalade_server.providers.resets import Window
from escalade_server.providers.signal_tables import (
    ANTHROPIC_DIALECT,
    COMPATIBLE,
    GEMINI_DIALECT,
    OPENAI_DIALECT,
    VENDORS,
    vendor_of,
)
from escalade_server.providers.signals import Rule, Vendor, judge
from tests.providers.signal_cases import NOW_MS, Case, cases

CASES = cases()
RANGE = 20
"""Sets of statuses larger than this are ranges, of which a sample is enough."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.vendor}: {case.row}")
def test_a_signal_means_what_the_table_says(case: Case) -> None:
    assert case.outcome(VENDORS[case.vendor]) == case.expected
    if not case.status:
        assert error_body.is_error(case.body)


def test_there_are_enough_cases_and_they_are_told_apart() -> None:
    assert len(CASES) >= 120
    assert len({(case.vendor, case.row) for case in CASES}) == len(CASES)
    assert {case.vendor for case in CASES} == set(VENDORS)


def mutants(rule: Rule) -> Iterator[tuple[str, Rule | None]]:
    """The rule gone, and with each thing that it says changed or left out."""
    yield "gone", None
    other = FailureClass.CANCELLED
    yield "class", dataclasses.replace(rule, cls=other)
    for name in ("codes", "types", "statuses"):
        members = getattr(rule, name)
        if 1 < len(members) <= RANGE:
            for member in sorted(members):
                yield (
                    f"{name} without {member}",
                    dataclasses.replace(rule, **{name: members - {member}}),
                )
    if rule.text is not None:
        yield "any text", dataclasses.replace(rule, text=re.compile(""))
        yield "no text", dataclasses.replace(rule, text=re.compile("(?!)"))
    scope = Scope.PROVIDER if rule.scope is None else None
    yield "scope", dataclasses.replace(rule, scope=scope)
    window = Window.WEEK if rule.window is Window.MONTH else Window.MONTH
    if rule.window is not Window.NONE:
        yield "window", dataclasses.replace(rule, window=window)
        yield "no window", dataclasses.replace(rule, window=Window.NONE)


def survivors(cases: list[Case], rules: tuple[Rule, ...], *, shared: bool) -> list[str]:
    """Mutants of a table that no case notices."""
    found = []
    for number, rule in enumerate(rules):
        for what, mutant in mutants(rule):
            changed = (*rules[:number], *((mutant,) if mutant else ()), *rules[number + 1 :])
            vendors = {
                vendor.name: dataclasses.replace(vendor, shared=changed)
                if shared
                else dataclasses.replace(vendor, own=changed)
                for vendor in VENDORS.values()
            }
            if all(case.outcome(vendors[case.vendor]) == case.expected for case in cases):
                found.append(f"row {number} ({rule.cls.value}): {what}")
    return found


@pytest.mark.parametrize("name", [name for name in VENDORS if VENDORS[name].own])
def test_no_row_of_a_vendor_is_idle(name: str) -> None:
    own = [case for case in CASES if case.vendor == name]
    assert survivors(own, VENDORS[name].own, shared=False) == []


DIALECTS = {"openai": OPENAI_DIALECT, "anthropic": ANTHROPIC_DIALECT, "gemini": GEMINI_DIALECT}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.fault("P5")  # the words are a row, and a fixture holds each row
def test_no_row_of_a_dialect_is_idle(dialect: str) -> None:
    cases = [case for case in CASES if VENDORS[case.vendor].dialect == dialect]
    assert survivors(cases, DIALECTS[dialect], shared=True) == []


@pytest.mark.parametrize("name", ["openai", "openrouter", "compatible", "anthropic"])
def test_no_reset_header_is_idle(name: str) -> None:
    vendor = VENDORS[name]
    own = [case for case in CASES if case.vendor == name]
    for number in range(len(vendor.reset_headers)):
        rest = vendor.reset_headers[:number] + vendor.reset_headers[number + 1 :]
        mutant = dataclasses.replace(vendor, reset_headers=rest)
        assert any(case.outcome(mutant) != case.expected for case in own), number


@pytest.mark.parametrize("vendor", VENDORS.values(), ids=lambda vendor: vendor.name)
def test_codes_come_before_types_before_statuses_before_text(vendor: Vendor) -> None:
    assert all(before.rank <= after.rank for before, after in pairwise(vendor.rules))
    assert len(vendor.rules) == len(vendor.own) + len(vendor.shared)


def test_an_unknown_provider_is_a_compatible_server() -> None:
    assert vendor_of("somebody-else", "openai") is COMPATIBLE


def test_an_unknown_provider_goes_by_the_dialect_it_speaks() -> None:
    assert vendor_of("somebody-else", "anthropic") is VENDORS["anthropic"]
    assert vendor_of("somebody-else", "gemini") is VENDORS["google"]
    assert vendor_of("minimax", "anthropic") is VENDORS["anthropic"]
    assert vendor_of("minimax", "openai") is VENDORS["minimax"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.vendor}: {case.row}")
def test_a_failure_repeats_nothing_of_the_body(case: Case) -> None:
    secret = "sk-Secret prompt"
    marked = re.sub(r'"message": ?"', f'"message": "{secret} ', case.raw.decode())
    marked = marked.replace('"flagged_input":"', f'"flagged_input":"{secret}')
    vendor = VENDORS[case.vendor]
    evidence = error_body.read(case.status or 200, case.headers, marked.encode())
    failure = judge(vendor, evidence, NOW_MS)
    assert secret not in repr(failure)
    assert secret not in repr(evidence)
    assert not failure.detail.startswith(vendor.name), "the model stands beside it"


def test_an_unknown_code_is_not_repeated_and_the_same_error_has_the_same_hash() -> None:
    def detail(body: bytes) -> str:
        return judge(COMPATIBLE, error_body.read(418, {}, body), NOW_MS).detail

    one, two = (b'{"error": {"code": "sk-key", "message": "%s"}}' % text for text in (b"a", b"b"))
    assert "sk-key" not in detail(one)
    assert detail(one) == detail(one)
    assert detail(one) != detail(two)
    assert re.fullmatch(r"unclassified error \(HTTP 418, text [0-9a-f]{12}\)", detail(one))


KEYS = [
    *("error", "code", "type", "status", "message", "metadata", "headers", "availability"),
    *("details", "reason", "violations", "quotaId", "quotaValue", "retryDelay", "error_code"),
    *("base_resp", "status_code", "status_msg", "detail", "payment", "error_type", "reasons"),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
header_names = st.sampled_from(
    ["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-remaining"]
    + [f"x-ratelimit-{what}-tokens" for what in ("reset", "remaining")]
)


@given(
    vendor=st.sampled_from(sorted(VENDORS)),
    status=st.integers(0, 999),
    headers=st.dictionaries(header_names, st.text(max_size=12) | st.floats().map(str)),
    value=json_values,
)
def test_any_error_has_a_class_and_a_reset_within_bounds(
    vendor: str, status: int, headers: dict[str, str], value: object
) -> None:
    error_body.is_error(value)
    failure = judge(VENDORS[vendor], error_body.examine(status, headers, value), NOW_MS)
    assert failure.cls in FailureClass
    reset = failure.reset_at_ms
    assert reset is None or NOW_MS <= reset <= NOW_MS + 32 * 86_400_000


@given(body=st.binary(max_size=64))
def test_any_bytes_have_a_class(body: bytes) -> None:
    failure = judge(COMPATIBLE, error_body.read(429, {}, body), NOW_MS)
    assert failure.cls is FailureClass.RATE_SHORT


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":' + b"[" * 100_000,
        b'{"error":' * 70 + b"{}" + b"}" * 70,
        b'{"error":{"code":' + b"9" * 1_000_000 + b"}}",
        b'{"error":{"code":NaN}}',
        b'{"error":{"code":1e999}}',
        b"\xff\xfe" * 50_000,
    ],
    ids=["open", "deep", "digits", "nan", "infinite", "binary"],
)
def test_a_hostile_body_leaves_the_status(body: bytes) -> None:
    failure = judge(COMPATIBLE, error_body.read(503, {}, body), NOW_MS)
    assert failure.cls is FailureClass.OVERLOADED


def test_nesting_is_counted_outside_strings_only() -> None:
    assert bounded_json.is_sound(b'{"a":"' + b'{[\\"' * 500 + b'"}')
    assert bounded_json.is_sound(b"[" + b"[]," * 500 + b"[]]")
    assert bounded_json.is_sound(b"[" * 64 + b"]" * 64)
    assert not bounded_json.is_sound(b"[" * 65 + b"]" * 65)
    assert not bounded_json.is_sound(b'{"a":' * 65 + b"1" + b"}" * 65)
