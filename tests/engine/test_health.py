"""Circuits of providers and of models, and alerts that were told already."""

from escalade_server.core.breaker import MODEL_OPEN_MS, MODEL_OPEN_MS_MAX, Breaker
from escalade_server.core.facts import Alert, AlertKind
from escalade_server.core.failure import HOUR_MS
from escalade_server.core.rules import Rules
from escalade_server.core.standing import CircuitState
from escalade_server.engine.health import Health
from tests.core.builders import T0, model

MINI = model("openai/mini")


def test_p7_an_overloaded_model_opens_at_once_and_doubles_to_ten_seconds() -> None:
    health, now_ms, opened = Health(Rules()), T0, list[int]()
    for _ in range(9):
        health.called(MINI, now_ms)
        health.report(MINI.key, ok=False, now_ms=now_ms)
        (circuit,) = health.circuits(now_ms).values()
        assert circuit.state is CircuitState.OPEN
        opened.append(circuit.until_ms - now_ms)
        now_ms = circuit.until_ms

    assert opened[:3] == [MODEL_OPEN_MS, 2 * MODEL_OPEN_MS, 4 * MODEL_OPEN_MS]
    assert opened[-2:] == [MODEL_OPEN_MS_MAX] * 2
    health.answered(MINI.key, 5)
    assert health.circuits(now_ms) == {}


def test_p7_an_overload_leaves_the_providers_circuit_closed() -> None:
    health = Health(Rules(breaker_failures=1))
    health.report(MINI.key, ok=False, now_ms=T0)

    assert list(health.circuits(T0)) == [MINI.key]
    assert health.is_shut(MINI, T0)
    assert not health.is_shut(MINI, T0 + MODEL_OPEN_MS)


def test_p4_an_alert_is_told_once_an_hour() -> None:
    health, empty = Health(Rules()), Alert(AlertKind.BALANCE, "", MINI)

    assert health.is_news(empty, T0)
    assert not health.is_news(empty, T0 + HOUR_MS - 1)
    assert health.is_news(Alert(AlertKind.AUTH, "", MINI), T0 + 1)
    assert health.is_news(empty, T0 + HOUR_MS)
    assert all(health.is_news(Alert(AlertKind.EXHAUSTED, ""), T0) for _ in range(2))


def test_workers_tell_each_other_what_becomes_of_a_circuit() -> None:
    one, two = Health(Rules(breaker_failures=2)), Health(Rules(breaker_failures=2))
    told: list[CircuitState] = []

    def pass_on(key: str, state: Breaker) -> None:
        told.append(state.state)
        two.hear(key, state)

    one.told = pass_on
    one.report(MINI.provider, ok=False, now_ms=T0)
    assert told == [], "one failure opens nothing, and is nobody else's"
    one.report(MINI.provider, ok=False, now_ms=T0)
    assert one.circuits(T0) == two.circuits(T0) != {}
    now_ms = one.circuits(T0)[MINI.provider].until_ms
    assert not two.is_shut(MINI, now_ms)
    one.called(MINI, now_ms)  # the probe: nobody else makes one
    assert two.is_shut(MINI, now_ms)
    one.report(MINI.provider, ok=True, now_ms=now_ms)
    assert two.circuits(now_ms) == {}
    assert told == [CircuitState.OPEN, CircuitState.OPEN, CircuitState.CLOSED]
    one.answered(MINI.key, 5)
    assert len(told) == 3, "an uneventful answer is told nobody"
