"""How well work goes on while a provider is down, and how soon it comes back."""

from collections.abc import Mapping

from escalade_server.core.facts import Finished, Outcome
from escalade_server.core.standing import Circuit
from escalade_server.simulation.checkers import demand
from escalade_server.simulation.worlds import HEALED_US, Kind, World

ATTEMPTS_PERCENT = 120
GOODPUT_PERCENT = 95


class Resilience:
    """Looks at worlds in which providers go down and heal; at others it has nothing to say.

    Steady: from when the circuit must have opened to the healing, attempts are at most 1.2 times
    the tasks that came (one provider of several being down). Healed: of the tasks that come 15 s
    after healing or later, 95 % are answered without a wait.
    """

    def __init__(self, of: World) -> None:
        self._sick, self._kind = of.sick, of.kind
        self._arrived_us = [arrival.at_us for arrival in of.arrivals]
        self._attempts: dict[int, int] = {}
        self._good: set[int] = set()
        self.opened_us = 0
        """When a circuit opened first."""

    def look(self, circuits: Mapping[str, Circuit], now_us: int) -> None:
        """See the circuits, until one opens."""
        if circuits:
            self.opened_us = now_us

    def called(self, number: int) -> None:
        """See an attempt of a task."""
        self._attempts[number] = self._attempts.get(number, 0) + 1

    def ended(self, number: int, outcome: Outcome) -> None:
        """See a task end; one that had to wait shows that not all is well yet."""
        if isinstance(outcome, Finished) and not outcome.report.waited_ms:
            self._good.add(number)

    def close(self) -> None:
        """Judge the run."""
        if self._sick is None:
            return
        if self._kind is Kind.OUTAGE and self.opened_us:
            steady = self._between(self.opened_us, self._sick.to_us)
            made = sum(self._attempts.get(number, 0) for number in steady)
            few = made * 100 <= ATTEMPTS_PERCENT * len(steady)
            demand(few, self, f"{made} attempts for {len(steady)} tasks while a provider was down")
        healed = self._between(self._sick.to_us + HEALED_US, 1 << 62)
        good = sum(number in self._good for number in healed)
        enough = good * 100 >= GOODPUT_PERCENT * len(healed)
        demand(enough, self, f"{good} of {len(healed)} tasks answered 15 s after healing")

    def _between(self, from_us: int, to_us: int) -> list[int]:
        """Answer the numbers of the tasks that came between two instants."""
        return [n for n, at in enumerate(self._arrived_us, 1) if from_us <= at < to_us]
