from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core.breaker import OPEN_MS_MAX, PROBE_MS, Breaker, probe, step
from escalade_server.core.standing import Circuit, CircuitState
from tests.core.builders import T0

OPEN_MS = 10_000


def after(breaker: Breaker, calls: str, now_ms: int = T0, open_ms: int = OPEN_MS) -> Breaker:
    """Let calls end: ``+`` well, ``-`` not."""
    for call in calls:
        breaker = step(breaker, ok=call == "+", now_ms=now_ms, failures_max=3, open_ms=open_ms)
    return breaker


def failed_probes(count: int, open_ms: int = OPEN_MS) -> Breaker:
    breaker = after(Breaker(), "---", open_ms=open_ms)
    for _ in range(count):
        now_ms = breaker.until_ms
        breaker = after(probe(breaker, now_ms), "-", now_ms=now_ms, open_ms=open_ms)
    return breaker


def test_failures_in_a_row_open_the_circuit() -> None:
    assert after(Breaker(), "--").circuit(T0).state is CircuitState.CLOSED
    assert after(Breaker(), "--+--").state is CircuitState.CLOSED

    opened = after(Breaker(), "---")

    assert opened.circuit(T0) == Circuit(CircuitState.OPEN, T0 + OPEN_MS)


def test_r35_one_call_probes_and_the_others_wait_for_its_news() -> None:
    opened = after(Breaker(), "---")
    now = T0 + OPEN_MS
    assert opened.circuit(now).state is CircuitState.HALF_OPEN

    probing = probe(opened, now)

    assert probing.circuit(now) == Circuit(CircuitState.OPEN, now + PROBE_MS)
    assert probing.circuit(now + PROBE_MS).state is CircuitState.HALF_OPEN, "its news never came"
    assert after(probing, "+", now_ms=now) == Breaker()


def test_the_open_time_doubles_with_every_failed_probe_up_to_a_bound() -> None:
    short_ms = 1_000
    first = T0 + short_ms
    assert failed_probes(1, short_ms).until_ms == first + 2 * short_ms
    assert failed_probes(2, short_ms).until_ms == first + 2 * short_ms + 4 * short_ms
    last, before = failed_probes(20, short_ms), failed_probes(19, short_ms)
    assert last.until_ms - before.until_ms == OPEN_MS_MAX


def test_work_comes_back_within_15_s_after_healing() -> None:
    assert max(OPEN_MS_MAX, OPEN_MS, PROBE_MS) <= 10_000


def test_late_news_does_not_lengthen_an_open_circuit() -> None:
    opened = after(Breaker(), "---")

    assert after(opened, "-", now_ms=T0 + 5_000) == opened


@given(st.integers(1, 3_600_000), st.integers(0, 15))
def test_the_open_time_is_never_under_its_base(open_ms: int, probes: int) -> None:
    before = failed_probes(probes, open_ms)
    again = after(probe(before, before.until_ms), "-", now_ms=before.until_ms, open_ms=open_ms)

    lasted = again.until_ms - before.until_ms
    assert open_ms <= lasted <= max(open_ms, OPEN_MS_MAX)
