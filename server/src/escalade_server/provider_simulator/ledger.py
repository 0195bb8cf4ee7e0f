"""The provider's own count: what it received, what it bills. Tests hold the product against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from escalade_server.provider_simulator.answer import Answer, tokens_of
from escalade_server.provider_simulator.quota import Counters
from escalade_server.provider_simulator.scenario import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one provider counted for one model."""

    provider: str
    model: str
    requests_received: int = 0
    requests_refused: int = 0
    """Answered with an error status, or not at all."""
    requests_billed: int = 0
    """Answers begun (or billed by a fault's `billed`)."""
    requests_finished: int = 0
    """Answers told to their scripted end."""
    disconnects: int = 0
    """Requests whose client left before the end."""
    streams_open: int = 0
    input_tokens: int = 0
    """Billed, with cached ones."""
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    """Part of the input tokens, as cached ones are."""
    output_tokens: int = 0
    """Billed, with reasoning."""
    cost_pico: int = 0

    @property
    def cost_nanos(self) -> int:
        """Cost in nano-dollars, rounded up once over the whole sum."""
        return -(-self.cost_pico // 1000)


@dataclass(frozen=True, slots=True)
class Ledger:
    """A snapshot of all accounts, by (provider, model)."""

    accounts: Mapping[tuple[str, str], Account]

    def of(self, provider: str, model: str) -> Account:
        """The account of one model; all zero when it was never asked."""
        none = Account(provider=provider, model=model)
        return self.accounts.get((provider, model), none)

    @property
    def cost_nanos(self) -> int:
        """Cost of everything in nano-dollars."""
        return -(-sum(account.cost_pico for account in self.accounts.values()) // 1000)


@dataclass(slots=True)
class Tally:
    """The live side of an `Account`."""

    provider: str
    model: str
    requests_received: int = 0
    requests_refused: int = 0
    requests_billed: int = 0
    requests_finished: int = 0
    disconnects: int = 0
    streams_open: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    cost_pico: int = 0

    def bill(self, price: Price, answer: Answer, output_tokens: int) -> None:
        """Books one answer, once, when its end is known."""
        self.requests_billed += 1
        self.input_tokens += answer.input_tokens
        self.cached_input_tokens += answer.cached_tokens
        self.cache_write_tokens += answer.cache_write_tokens
        self.output_tokens += output_tokens
        self.cost_pico += cost_pico(price, answer, output_tokens)

    def account(self) -> Account:
        """A frozen copy."""
        return Account(
            provider=self.provider,
            model=self.model,
            requests_received=self.requests_received,
            requests_refused=self.requests_refused,
            requests_billed=self.requests_billed,
            requests_finished=self.requests_finished,
            disconnects=self.disconnects,
            streams_open=self.streams_open,
            input_tokens=self.input_tokens,
            cached_input_tokens=self.cached_input_tokens,
            cache_write_tokens=self.cache_write_tokens,
            output_tokens=self.output_tokens,
            cost_pico=self.cost_pico,
        )


def cost_pico(price: Price, answer: Answer, output_tokens: int) -> int:
    """Pico-dollars of an answer of which so much was told."""
    plain = price.input_pico
    cached = plain if price.cached_input_pico is None else price.cached_input_pico
    written = plain if price.cache_write_pico is None else price.cache_write_pico
    return (
        (answer.input_tokens - answer.cached_tokens - answer.cache_write_tokens) * plain
        + answer.cached_tokens * cached
        + answer.cache_write_tokens * written
        + output_tokens * price.output_pico
    )


class Booking:
    """The bill of one answer: grows while it is told, is booked once."""

    __slots__ = (
        "answer",
        "begun_ms",
        "counters",
        "generated_bytes",
        "price",
        "settled",
        "tally",
    )

    def __init__(
        self,
        tally: Tally,
        counters: Iterable[Counters],
        price: Price,
        answer: Answer,
        begun_ms: int,
    ) -> None:
        """Begins with the input: it is billed from the moment the vendor takes the request."""
        self.begun_ms = begun_ms
        self.tally = tally
        self.counters = tuple(counters)
        self.price = price
        self.answer = answer
        self.generated_bytes = 0
        self.settled = False

    def settle(self, *, whole: bool) -> None:
        """Books input and what was generated, or the whole answer; later calls change nothing."""
        if self.settled:
            return
        self.settled = True
        output = self.answer.output_tokens
        if not whole:
            output = min(output, tokens_of(self.generated_bytes))
        self.tally.bill(self.price, self.answer, output)
        for counters in self.counters:
            counters.add("tokens", self.answer.input_tokens + output, self.begun_ms)
