"""What providers bill, kept beside the books: these may say more, and never less (C5, R13)."""

from escalade_server.core.catalog import Model
from escalade_server.core.commands import CallModel, Settle
from escalade_server.core.events import AttemptFailed, ChunkArrived, OutcomeReported
from escalade_server.core.facts import Selected
from escalade_server.core.failure import FailureClass
from escalade_server.core.money import PICOS_PER_NANO
from escalade_server.core.task import Delivery, Usage
from escalade_server.simulation.checkers import Seen, demand
from escalade_server.simulation.driver import Play

_F = FailureClass
BILLED_UNSEEN = frozenset({_F.OUTAGE, _F.TIMEOUT, _F.PROTOCOL, _F.UNKNOWN, _F.CANCELLED})
"""After these a provider may have worked, and bill for it; the other classes are refusals."""
BELIEVABLE, TIMES = 10**8, 10
"""Tokens that no simulated call honestly uses; multiples of its bound that none does (U26)."""


class Bill:
    """What is known of one call until it is settled."""

    __slots__ = ("free", "model", "most", "own_figure", "usage", "worked")

    def __init__(self, model: Model, output_tokens_max: int) -> None:
        self.model, self.most = model, TIMES * output_tokens_max
        self.usage: Usage | None = None
        self.worked = self.free = self.own_figure = False

    def least_nanos(self) -> int | None:
        """Answer the least that may be booked; None: anything but nothing."""
        price, usage = self.model.price, self.usage
        if usage is not None and not self.own_figure:
            picos = usage.input_tokens * price.input_picos
            picos += usage.output_tokens * price.output_picos
            return -(-picos // PICOS_PER_NANO)
        unsure = self.worked or (self.model.is_paid and not self.free)
        return None if unsure and price.input_picos and price.output_picos else 0


class BilledIsBooked:
    """An attempt is booked with no less than its provider told, or may bill without a word."""

    kinds = (CallModel, Selected, ChunkArrived, AttemptFailed, OutcomeReported, Settle)

    def __init__(self) -> None:
        self._bills: dict[tuple[int, int], Bill] = {}

    def see(self, play: Play, what: Seen, now_ms: int) -> None:
        """Look at one."""
        del now_ms
        routed = play.request.delivery is Delivery.ROUTE
        if isinstance(what, CallModel):
            call = what.candidate
            self._bills[play.number, what.attempt] = Bill(call.model, call.output_tokens_max)
        elif isinstance(what, Selected):
            if routed:
                most = what.output_tokens_max
                self._bills[play.number, what.attempt] = Bill(what.model, most)
        elif isinstance(what, Settle):
            bill = self._bills.pop((play.number, what.attempt), None)
            if bill is not None and what.hold_until_ms is None:
                self._judge(bill, what)
        elif isinstance(what, ChunkArrived | AttemptFailed | OutcomeReported):
            bill = self._bills.get((play.number, what.attempt))
            if bill is not None:
                _hear(bill, what)

    def _judge(self, bill: Bill, order: Settle) -> None:
        least, told = bill.least_nanos(), bill.usage
        if least is None:
            demand(order.nanos > 0, self, f"books nothing for {order.reservation_id}")
        else:
            short = f"books {order.nanos} nanos of {least} for {order.reservation_id}"
            demand(order.nanos >= least, self, short)
        if told is not None:
            tokens = told.input_tokens + told.output_tokens
            short = f"books {order.tokens} tokens of {tokens} for {order.reservation_id}"
            demand(order.tokens >= tokens, self, short)


def _hear(bill: Bill, news: ChunkArrived | AttemptFailed | OutcomeReported) -> None:
    """Note what is told of a call."""
    failure = None if isinstance(news, ChunkArrived) else news.failure
    if failure is not None:
        bill.free = not failure.sent or failure.cls not in BILLED_UNSEEN
    if isinstance(news, AttemptFailed):
        return
    if isinstance(news, ChunkArrived):
        bill.worked = bill.worked or bool(news.deltas)
        bill.own_figure = bill.own_figure or news.cost_nanos is not None
    usage = news.usage
    if usage is not None and (failure is None or failure.sent) and _is_believable(usage, bill.most):
        bill.usage = usage


def _is_believable(usage: Usage, output_most: int) -> bool:
    honest = 0 <= usage.cached_tokens <= usage.input_tokens
    return honest and 0 <= usage.output_tokens <= output_most and usage.total_tokens < BELIEVABLE
