"""A circuit breaker: a pure reducer over calls that went well or did not.

After ``failures_max`` failures in a row the circuit opens; after ``open_ms`` one call probes it
(R35). Consecutive failures as in Envoy's outlier detection; the open time doubles while probes
fail, up to ``OPEN_MS_MAX``, and is never under its base, so that a flapping provider does not
make it thrash (P8). A probe holds the circuit for ``PROBE_MS``: if its news never comes (its
caller left, its provider is silent), the next task probes. Both bounds are 10 s, so that work
comes back within 15 s after a provider has healed; a probe in 10 s wastes next to nothing.

A provider has one, and so has each model whose provider says that it is overloaded (P7): that one
opens at the first such answer, for 1 s, and doubles up to 10 s.
"""

from dataclasses import dataclass, replace

from escalade_server.core.standing import Circuit, CircuitState

OPEN_MS_MAX = 10_000
MODEL_OPEN_MS = 1_000
MODEL_OPEN_MS_MAX = 10_000
PROBE_MS = 10_000


@dataclass(frozen=True, slots=True)
class Breaker:
    """State of one circuit; ``openings`` counts failed probes in a row."""

    state: CircuitState = CircuitState.CLOSED
    failures: int = 0
    openings: int = 0
    until_ms: int = 0
    probing: bool = False

    def circuit(self, now_ms: int) -> Circuit:
        """Show what a task may know of it."""
        if self.state is CircuitState.OPEN and self.until_ms <= now_ms:
            return Circuit(CircuitState.HALF_OPEN, self.until_ms)
        return Circuit(self.state, self.until_ms)


def step(
    breaker: Breaker,
    *,
    ok: bool,
    now_ms: int,
    failures_max: int,
    open_ms: int,
    open_ms_max: int = OPEN_MS_MAX,
) -> Breaker:
    """Take the end of one call."""
    if ok:
        return Breaker()
    failures = breaker.failures + 1
    if breaker.state is CircuitState.OPEN:
        if not breaker.probing:
            return breaker  # late news of a call that began before the circuit opened
    elif failures < failures_max:
        return replace(breaker, failures=failures)
    longer = min(open_ms << min(breaker.openings, 10), open_ms_max)
    until = now_ms + max(open_ms, longer)
    return Breaker(CircuitState.OPEN, failures, breaker.openings + 1, until)


def probe(breaker: Breaker, now_ms: int) -> Breaker:
    """Let the one probe of a half-open circuit through, and nobody else for a while."""
    return replace(breaker, probing=True, until_ms=now_ms + PROBE_MS)
