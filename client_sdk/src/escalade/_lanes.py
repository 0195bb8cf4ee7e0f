"""On which of several connections a call goes. No I/O; the clients hold the connections (P7).

A connection carries a limited number of streams, often 100 behind a proxy. The next call beyond it
is never sent, and dies of its deadline without a word. So calls go where the fewest are in flight,
a further connection is opened before one is full, and waiting tasks and the state of the service
have their own: whoever asks how things stand does not queue behind those who wait.
"""

from escalade._errors import UsageError

CALLS_PER_CONNECTION = 100
CONNECTIONS_MAX = 10


class Lane:
    """Calls of one kind, and how many are in flight on each connection."""

    def __init__(self, connections_max: int = CONNECTIONS_MAX) -> None:
        self._connections_max = connections_max
        self._in_flight: list[int] = []

    @property
    def in_flight(self) -> tuple[int, ...]:
        """The calls in flight on each connection."""
        return tuple(self._in_flight)

    def take(self) -> int:
        """Put a call on a connection, and give its number; a new one is opened when all are full.

        With as many open as may be, the least busy takes it: the service admits more than a proxy.
        """
        flights = self._in_flight
        number = min(range(len(flights)), key=flights.__getitem__, default=0)
        full = not flights or flights[number] >= CALLS_PER_CONNECTION
        if full and len(flights) < self._connections_max:
            number = len(flights)
            flights.append(0)
        flights[number] += 1
        return number

    def give_back(self, number: int) -> None:
        """Note the end of a call."""
        if not self._in_flight[number]:
            raise UsageError("a call ends once")
        self._in_flight[number] -= 1
