"""What this process alone knows of providers: circuits, and how long answers usually are."""

from collections.abc import Mapping

from escalade_server.core import breaker
from escalade_server.core.breaker import Breaker
from escalade_server.core.rules import Rules
from escalade_server.core.standing import Circuit, CircuitState

_MEAN_WEIGHT = 8
"""An exponential mean over about this many answers (R13)."""


class Health:
    """Keeps the reducers of ``core.breaker``; opening a circuit makes tasks pass a provider by."""

    def __init__(self, rules: Rules) -> None:
        """Begin with every provider in good order."""
        self._rules = rules
        self._breakers: dict[str, Breaker] = {}
        self._means: dict[str, int] = {}

    @property
    def output_means(self) -> Mapping[str, int]:
        """Running mean of output tokens by model key."""
        return self._means

    def circuits(self, now_ms: int) -> Mapping[str, Circuit]:
        """Circuits that are not closed."""
        return {
            provider: state.circuit(now_ms)
            for provider, state in self._breakers.items()
            if state.state is not CircuitState.CLOSED
        }

    def report(self, provider: str, *, ok: bool, now_ms: int) -> None:
        """Take the end of one call."""
        state = self._breakers.get(provider)
        if state is None:
            if ok:
                return
            state = Breaker()
        self._breakers[provider] = breaker.step(
            state,
            ok=ok,
            now_ms=now_ms,
            failures_max=self._rules.breaker_failures,
            open_ms=self._rules.breaker_open_ms,
        )

    def called(self, provider: str, now_ms: int) -> None:
        """A call begins: on a half-open circuit it is the probe (R35)."""
        state = self._breakers.get(provider)
        if state is not None and state.circuit(now_ms).state is CircuitState.HALF_OPEN:
            self._breakers[provider] = breaker.probe(state, now_ms)

    def answered(self, model_key: str, output_tokens: int) -> None:
        """Take the length of an answer into the model's running mean."""
        mean = self._means.get(model_key, output_tokens)
        self._means[model_key] = mean + (output_tokens - mean) // _MEAN_WEIGHT
