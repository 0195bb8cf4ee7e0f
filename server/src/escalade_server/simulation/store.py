"""A store that misbehaves: slow, refusing, or done and yet answered with an error.

What it promises all the same is what ``engine.ports.Store`` promises: an order is done whole or
not at all, and a settlement that was answered with an error is done later by the store itself (S2).
"""

from collections.abc import Callable

from escalade_server.core.commands import Reserve, SetBench, Settle
from escalade_server.core.events import ReservationDenied, Reserved
from escalade_server.core.standing import Standing
from escalade_server.simulation.agenda import Agenda
from escalade_server.simulation.books import Books
from escalade_server.simulation.script import Fault, Now, Weather

AGAIN_US = 1_000_000
"""How long a settlement that failed waits for its next trial."""
ERROR = "the simulated store failed"


class Store:
    """Serves orders of the driver by the books and the weather."""

    def __init__(self, agenda: Agenda, books: Books, weather: Weather) -> None:
        """Keep the parts."""
        self._agenda, self._books, self._weather = agenda, books, weather
        self.owed = 0
        """Settlements that failed and are not done yet."""

    def standing(self) -> Standing:
        """Answer shared state; circuits are not kept here."""
        return self._books.standing(self._agenda.now_ms())

    def reserve(
        self, order: Reserve, done: Callable[[Reserved | ReservationDenied | None], None]
    ) -> None:
        """Serve a reservation; None for an error."""
        agenda, books = self._agenda, self._books
        service = self._weather.service(order, self._now())

        def work() -> None:
            answer = None
            if service.fault is not Fault.REFUSED:
                found = books.reserve(order, agenda.now_ms())
                answer = (
                    found
                    if isinstance(found, Reserved)
                    else ReservationDenied(order.attempt, found, self.standing())
                )
            if service.fault is not Fault.NONE:
                answer = None
            agenda.after(service.after_us, lambda: done(answer))

        agenda.after(service.before_us, work)

    def settle(self, order: Settle, done: Callable[[bool], None]) -> None:
        """Serve a settlement; the answer is whether it is durable."""
        agenda = self._agenda
        service = self._weather.service(order, self._now())

        def work() -> None:
            if service.fault is not Fault.REFUSED:
                self._books.settle(order, agenda.now_ms())
            if service.fault is not Fault.NONE:
                self.owed += 1
                agenda.after(AGAIN_US, lambda: self._again(order))
            agenda.after(service.after_us, lambda: done(service.fault is Fault.NONE))

        agenda.after(service.before_us, work)

    def bench(self, order: SetBench) -> None:
        """Serve a cooldown; one that is not kept is no fault."""
        service = self._weather.service(order, self._now())
        if service.fault is not Fault.REFUSED:
            self._agenda.after(service.before_us, lambda: self._books.bench(order))

    def _again(self, order: Settle) -> None:
        if self._weather.is_down(self._now()):
            self._agenda.after(AGAIN_US, lambda: self._again(order))
        else:
            self.owed -= 1
            self._books.settle(order, self._agenda.now_ms())

    def _now(self) -> Now:
        return Now(self._agenda.now_us, self._agenda.now_ms())
