"""What core and codec cost by themselves, in CPU µs, without a loop or a wire."""

from collections.abc import Callable

from escalade_server.checks.gates import AnswerGates
from escalade_server.core import ledger, walk
from escalade_server.core.assess import first_look
from escalade_server.core.cascade import Cascade
from escalade_server.core.catalog import (
    Billing,
    Catalog,
    Counter,
    CounterScope,
    Model,
    Period,
    Unit,
)
from escalade_server.core.commands import Candidate, Command, End, Reserve, Settle
from escalade_server.core.events import (
    ChunkArrived,
    Finish,
    Reserved,
    Settled,
    Started,
    TextDelta,
)
from escalade_server.core.experience import Experience
from escalade_server.core.facts import Finished
from escalade_server.core.standing import Balance, Standing
from escalade_server.core.task import FinishReason, Message, Request, Role, Task, Text, Usage
from escalade_server.core.triggers import Condition, LayerTrigger
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.openai_chat import OpenAIChat
from tests.bench.machine import cost_us
from tests.bench.mock_provider import PIECE, Script
from tests.core.builders import DAY, T0, cap, catalog, model, per_day

LAYERS = ("free", "budget", "premium")
FULL = 50
CAP_NANOS = 5_000_000_000


def three_by_eight(*, money: bool) -> Catalog:
    """Three layers of eight models; with ``money`` the upper two are limited by caps."""

    def one(layer: int, number: int) -> Model:
        name = f"{LAYERS[layer]}{number}"
        if layer and money:
            counters = (cap(name, CAP_NANOS), cap("strategy", CAP_NANOS))
            return model(f"p{number}/{name}", capabilities=("parsing",), counters=counters,
                         context_tokens=128_000,
                         billing=(Billing.SUBSCRIPTION, Billing.METERED)[layer - 1])  # fmt: skip
        return model(
            f"p{number}/{name}", capabilities=("parsing",),
            counters=(per_day(f"p{number}", name, FULL),), context_tokens=128_000,
        )  # fmt: skip

    made = [
        (
            name,
            tuple(one(layer, number) for number in range(8)),
            (LayerTrigger(LAYERS[layer - 1], Condition.EXHAUSTED, ""),) if layer else (),
        )
        for layer, name in enumerate(LAYERS)
    ]
    return catalog(*made)


def all_full_but_the_last(of: Catalog) -> Standing:
    """Use up the first counter of every model but the last."""
    balances = {}
    for each in of.models[:-1]:
        counter = each.counters[0]
        balances[counter.key] = Balance("w", counter.limit, 0, DAY)
    return Standing(balances)


def decision(*, money: bool) -> Callable[[], object]:
    """One decision over 24 models, all full but the last: from a task's need to its candidate."""
    of = three_by_eight(money=money)
    standing, asked = all_full_but_the_last(of), request()
    look = first_look(asked, of)

    def decide() -> walk.Step:
        return walk.begin(of, asked, look, Experience()).step(standing, T0)

    step = decide()
    assert isinstance(step, walk.Choice)
    assert [c.model for c in step.candidates] == [of.models[-1]]
    assert len(step.skips) == len(of.models) - 1
    return decide


def request() -> Request:
    """Ask for something small, stating all that can be stated."""
    message = Message(Role.USER, (Text(Script(1, 0).prompt()),))
    return Request("r", Task("parse", 0, 0), (message,), deadline_ms=T0 + 60_000)


def free_catalog() -> Catalog:
    """One free model, with a window of requests and one of tokens that are far from full."""
    tokens = Counter("tokens/day", Unit.TOKENS, Period.DAY, 10**9, CounterScope.MODEL, "")
    counters = (per_day("bench", "mock", 10**9), tokens)
    mock = model("bench/mock", capabilities=("parsing",), counters=counters)
    return catalog(("free", (mock,), ()))


class Books:
    """The ledger's arithmetic for one model, as a store does it but for keeping it."""

    def __init__(self, of: Model) -> None:
        self.balances = {c.key: Balance("w", 0, 0, DAY) for c in of.counters}
        self._columns = [(c.key, ledger.FIELD[c.unit]) for c in of.counters]

    def reserve(self, candidate: Candidate) -> ledger.Amounts:
        """Ask for room in all counters, and answer what is held."""
        rows = [self.balances[key] for key, _ in self._columns]
        assert ledger.denial(candidate, rows) is None
        held = ledger.bounds(candidate).checked()
        for key, column in self._columns:
            self.balances[key] = ledger.hold(self.balances[key], held[column])
        return held

    def settle(self, held: ledger.Amounts, order: Settle) -> None:
        """Release what was held, and book what was used."""
        used = ledger.Amounts(order.requests, order.tokens, order.nanos).checked()
        for key, column in self._columns:
            self.balances[key] = ledger.settle(self.balances[key], held[column], used[column])


def uneventful() -> Callable[[], object]:
    """All that core and ledger compute for a task that its first model answers in two reads."""
    of, asked, checker = free_catalog(), request(), AnswerGates()
    first = of.models[0]
    books = Books(first)
    standing = Standing(books.balances)
    text = ChunkArrived(1, (TextDelta(PIECE),), None, None, "mock")
    last = ChunkArrived(1, (), Finish(FinishReason.STOP), Usage(12, 3), "mock")

    def task() -> Command:
        cascade = Cascade(of, asked, "0123456789abcdef0123456789abcdef", checker)
        feed = cascade.handle
        # After each event a run asks for the next waking, and whether all is over.
        reserve = feed(Started(standing), now_ms=T0)[-1]
        state = cascade.wake_at_ms, cascade.closed
        assert type(reserve) is Reserve
        held = books.reserve(reserve.candidates[0])
        feed(Reserved(1, first.position), now_ms=T0)
        state = cascade.wake_at_ms, cascade.closed
        feed(text, now_ms=T0)
        state = cascade.wake_at_ms, cascade.closed
        (settle,) = [order for order in feed(last, now_ms=T0) if type(order) is Settle]
        state = cascade.wake_at_ms, cascade.closed
        books.settle(held, settle)
        end = feed(Settled(1, standing), now_ms=T0)[-1]
        state = cascade.wake_at_ms, cascade.closed
        assert state == (None, True)
        return end

    ended = task()
    assert isinstance(ended, End)
    assert isinstance(ended.outcome, Finished)
    return task


def chunk() -> Callable[[], object]:
    """One more chunk of a stream, through the core."""
    of = free_catalog()
    cascade = Cascade(of, request(), "t", AnswerGates())
    cascade.handle(Started(Standing()), now_ms=T0)
    cascade.handle(Reserved(1, of.models[0].position), now_ms=T0)
    news = ChunkArrived(1, (TextDelta(PIECE),), None, None, "mock")

    def one() -> None:
        (order,) = cascade.handle(news, now_ms=T0)
        assert order is not None
        assert cascade.wake_at_ms is not None

    return one


FRAMES = 64


def decoded(*, joined: bool) -> Callable[[], object]:
    """An answer of 64 chunks through the decoder: a read each, or all in one."""
    codec = OpenAIChat()
    candidate = Candidate(free_catalog().models[0], 100, 0, 4_096)
    frame = (
        b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"mock","choices":'
        b'[{"index":0,"delta":{"content":" word and more"},"finish_reason":null}]}\n\n'
    )
    reads = [frame * FRAMES] if joined else [frame] * FRAMES

    def answer() -> None:
        decoder = codec.decoder(
            candidate, 1, streamed=True, content_type="text/event-stream", now_ms=T0
        )
        for read in reads:
            told = decoder.feed(read)
            assert isinstance(told, ChunkArrived)

    return answer


def encoded() -> Callable[[], object]:
    """One request through the encoder."""
    codec, asked = OpenAIChat(), request()
    candidate = Candidate(free_catalog().models[0], 100, 0, 4_096)
    endpoint = Endpoint("bench", "default", "http://127.0.0.1/v1", "made-up")
    return lambda: codec.encode(asked, candidate, endpoint)


def measure(*, quick: bool) -> dict[str, float]:
    """CPU µs of each part."""
    scale = 1 if quick else 4
    return {
        "decision_24_models": cost_us(decision(money=False), 500 * scale),
        "decision_24_models_with_caps": cost_us(decision(money=True), 500 * scale),
        "uneventful_task": cost_us(uneventful(), 500 * scale),
        "core_per_chunk": cost_us(chunk(), 5_000 * scale),
        "encode": cost_us(encoded(), 1_000 * scale),
        "decode_per_chunk": cost_us(decoded(joined=False), 50 * scale) / FRAMES,
        "decode_per_chunk_joined": cost_us(decoded(joined=True), 50 * scale) / FRAMES,
    }
