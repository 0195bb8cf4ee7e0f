"""What this process alone knows of providers: circuits, and how long answers usually are."""

from collections.abc import Callable, Mapping

from escalade_server.core import alerting, breaker
from escalade_server.core.breaker import Breaker
from escalade_server.core.catalog import Model
from escalade_server.core.facts import Alert
from escalade_server.core.rules import Rules
from escalade_server.core.standing import Circuit, CircuitState

_CLOSED = Breaker()
_MEAN_WEIGHT = 8
"""An exponential mean over about this many answers (R13)."""


class Health:
    """Keeps the reducers of ``core.breaker``; opening a circuit makes tasks pass a provider by."""

    def __init__(self, rules: Rules) -> None:
        """Begin with every provider in good order."""
        self.rules = rules
        self._breakers: dict[str, Breaker] = {}
        self._means: dict[str, int] = {}
        self._alerted: dict[str, int] = {}
        self.told: Callable[[str, Breaker], None] = lambda _key, _state: None
        """Hears of every circuit that opens, is probed, or closes: other workers should know."""

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

    def report(self, key: str, *, ok: bool, now_ms: int) -> None:
        """Take the end of one call, for a provider or for a model by its key."""
        state = self._breakers.get(key)
        if state is None:
            if ok:
                return
            state = Breaker()
        of_model, rules = "/" in key, self.rules  # no provider's name has one
        new = breaker.step(
            state,
            ok=ok,
            now_ms=now_ms,
            failures_max=1 if of_model else rules.breaker_failures,
            open_ms=breaker.MODEL_OPEN_MS if of_model else rules.breaker_open_ms,
            open_ms_max=breaker.MODEL_OPEN_MS_MAX if of_model else breaker.OPEN_MS_MAX,
        )
        self._put(key, new)

    def hear(self, key: str, state: Breaker) -> None:
        """Take a circuit as another worker found it."""
        if state.state is CircuitState.CLOSED:
            self._breakers.pop(key, None)
        else:
            self._breakers[key] = state

    def _put(self, key: str, new: Breaker | None) -> None:
        old, now = self._breakers.get(key, _CLOSED), new or _CLOSED
        if new is None:
            self._breakers.pop(key, None)
        else:
            self._breakers[key] = new
        if (old.state, old.until_ms, old.probing) != (now.state, now.until_ms, now.probing):
            self.told(key, now)

    def called(self, model: Model, now_ms: int) -> None:
        """A call begins: on a half-open circuit it is the probe (R35)."""
        for key in (model.provider, model.key) if self._breakers else ():
            state = self._breakers.get(key)
            if state is not None and state.circuit(now_ms).state is CircuitState.HALF_OPEN:
                self._put(key, breaker.probe(state, now_ms))

    def is_shut(self, model: Model, now_ms: int) -> bool:
        """Tell whether a call of a model would meet an open circuit."""
        for key in (model.provider, model.key) if self._breakers else ():
            state = self._breakers.get(key)
            if state is not None and state.circuit(now_ms).state is CircuitState.OPEN:
                return True
        return False

    def close(self, model: Model) -> None:
        """Close the circuits of a model and its provider: an operator says so."""
        for key in (model.provider, model.key):
            self._put(key, None)

    def answered(self, model_key: str, output_tokens: int) -> None:
        """A model has answered: take the length into its running mean; it is not overloaded."""
        if model_key in self._breakers:
            self._put(model_key, None)
        mean = self._means.get(model_key, output_tokens)
        self._means[model_key] = mean + (output_tokens - mean) // _MEAN_WEIGHT

    def is_news(self, alert: Alert, now_ms: int) -> bool:
        """Tell whether an alert is to be told; one that was, is not for a while (P4)."""
        subject = alerting.subject(alert)
        if subject is None:
            return True
        last_ms = self._alerted.get(subject)
        if last_ms is not None and now_ms < last_ms + alerting.AGAIN_MS:
            return False
        self._alerted[subject] = now_ms
        return True
