"""Whole tasks drawn at random: a strategy, a request, a standing, and a world that answers."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import strategies as st

from escalade_server.core.agents import limited
from escalade_server.core.catalog import (
    Agent,
    Billing,
    Catalog,
    Counter,
    CounterScope,
    DataPolicy,
    Model,
    Period,
    Unit,
)
from escalade_server.core.commands import CallModel, Reserve, Settle
from escalade_server.core.events import (
    AttemptFailed,
    ChunkArrived,
    Finish,
    Settled,
    StreamEnded,
    TextDelta,
)
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.ledger import denial
from escalade_server.core.rules import OnComplexity, OnOutage, OnRateLimit, OnTargetExhausted, Rules
from escalade_server.core.standing import Balance, Bench, Circuit, CircuitState, Denial, Standing
from escalade_server.core.task import Constraints, DataDemand, FinishReason, Request, Task, Usage
from escalade_server.core.triggers import Condition, LayerTrigger
from tests.core.builders import DAY, T0, catalog, model, request
from tests.core.parts import need
from tests.core.play import Play

NAMES = ("bottom", "lower", "upper", "top")
PROVIDERS = ("openai", "google", "minimax")
SKILLS = ("parsing", "debugging", "architecture")
limits = st.sampled_from([0, 1, 10_000, 10**7, 10**12, 10**12])


@st.composite
def models(draw: st.DrawFn, name: str) -> Model:
    counters = tuple(
        Counter(f"{name}{i}", unit, period, draw(limits), CounterScope.MODEL, "limit")
        for i, (unit, period) in enumerate(
            draw(
                st.lists(
                    st.tuples(st.sampled_from(Unit), st.sampled_from([Period.DAY, Period.MONTH])),
                    max_size=2,
                )
            )
        )
    )
    made = model(
        f"{draw(st.sampled_from(PROVIDERS))}/{name}",
        capabilities=tuple(draw(st.sets(st.sampled_from(SKILLS)))),
        counters=counters,
        billing=draw(st.sampled_from([*Billing, Billing.METERED])),
        context_tokens=draw(st.sampled_from([None, 10, 100_000])),
    )
    return replace(
        made,
        bills_after_cancel=draw(st.booleans()),
        data=draw(st.sampled_from(DataPolicy)),
        output_tokens_max=draw(st.sampled_from([None, 5])),
    )


@st.composite
def strategies(draw: st.DrawFn) -> Catalog:
    """Draw one to four layers of one to four models, with anything in any of them."""
    named = []
    for index in range(draw(st.integers(1, 4))):
        each = [draw(models(f"m{index}{n}")) for n in range(draw(st.integers(1, 4)))]
        below = NAMES[max(index - 1, 0)]
        condition = draw(st.none() | st.sampled_from(Condition))
        triggers = (LayerTrigger(below, condition, "trigger", 9),) if condition and index else ()
        named.append((NAMES[index], tuple(each), triggers))
    rules = draw(
        st.builds(
            Rules,
            on_rate_limit=st.sampled_from(OnRateLimit),
            on_complexity=st.sampled_from(OnComplexity),
            on_target_exhausted=st.sampled_from(OnTargetExhausted),
            on_outage=st.sampled_from(OnOutage),
            require_capability=st.booleans(),
        )
    )
    made = catalog(*named, rules=rules)
    asks = st.sampled_from([False, False, True])
    layers = tuple(replace(layer, consent_required=draw(asks)) for layer in made.layers)
    return replace(made, layers=layers)


@st.composite
def requests(
    draw: st.DrawFn, catalog: Catalog, constraints: st.SearchStrategy[Constraints]
) -> Request:
    stated = st.none() | st.sampled_from([0, 8_000_000, 10_000_000])
    types = st.sampled_from(["parse", "debug", "architecture", "whatever"])
    task = draw(
        st.builds(
            Task, type=types, files=st.just(0), tokens=st.just(0), complexity_micro=stated,
            data_demand=st.sampled_from([DataDemand.NONE, DataDemand.NONE, *DataDemand]),
        )
    )  # fmt: skip
    names = ["", *(layer.name for layer in catalog.layers)]
    found = draw(constraints)
    found = replace(
        found,
        lowest_layer=draw(st.sampled_from(names)),
        may_downgrade=draw(st.sampled_from([None, True, False])),
        consented_layers=draw(st.sampled_from([(), ("*",), ("top", "lower")])),
    )
    made = request(task=task, constraints=found)
    return replace(made, output_tokens_max=draw(st.sampled_from([None, 1, 100])))


@st.composite
def standings(draw: st.DrawFn, catalog: Catalog) -> Standing:
    if draw(st.booleans()):
        return Standing()
    counters = {c.key: c for m in catalog.models for c in m.counters}
    part = st.sampled_from([0, 0, 1, 2])
    balances = {
        key: Balance("w", c.limit * draw(part) // 2, c.limit * draw(part) // 2, DAY)
        for key, c in counters.items()
    }
    benches = {
        key: Bench(T0 + draw(st.sampled_from([500, 90_000])), cls, "set aside")
        for key, cls in draw(
            st.dictionaries(
                st.sampled_from([*PROVIDERS, "openai/default"]),
                st.sampled_from([c for c in FailureClass if c is not FailureClass.CANCELLED]),
                max_size=2,
            )
        ).items()
    }
    circuits = {
        p: Circuit(CircuitState.OPEN, T0 + 10_000)
        for p in draw(st.sets(st.sampled_from(PROVIDERS), max_size=1))
    }
    return Standing(balances, benches, circuits)


@st.composite
def limited_agents(draw: st.DrawFn, catalog: Catalog) -> Agent:
    """Draw an agent with anything it may be forbidden or granted."""
    keys = [model.key for model in catalog.models]
    names = [layer.name for layer in catalog.layers]
    counters = (
        Counter("r", Unit.REQUESTS, Period.DAY, draw(limits), CounterScope.AGENT, "requests"),
        Counter("n", Unit.NANOS, Period.MONTH, draw(limits), CounterScope.AGENT, "cap"),
    )
    return Agent(
        "bot",
        forbidden=frozenset(draw(st.sets(st.sampled_from(keys)))),
        free_only=draw(st.sampled_from([False, False, True])),
        spend_limit_nanos=draw(st.sampled_from([None, None, 0, 16_000])),
        may_downgrade=draw(st.sampled_from([None, True, False])),
        consented_layers=tuple(draw(st.sets(st.sampled_from(names)))),
        data_demand=draw(st.sampled_from([DataDemand.NONE, *DataDemand])),
        counters=counters[: draw(st.integers(0, 2))],
    )


class Life:
    """One task in a world that answers at random, but never beyond what it was allowed."""

    def __init__(
        self,
        data: st.DataObject,
        constraints: st.SearchStrategy[Constraints],
        agents: Callable[[Catalog], st.SearchStrategy[Agent]] | None = None,
    ) -> None:
        self.data = data
        self.catalog = data.draw(strategies())
        self.request = data.draw(requests(self.catalog, constraints))
        if agents is not None:
            own = data.draw(agents(self.catalog))
            self.catalog = replace(self.catalog, agents={own.name: own})
            self.request = limited(replace(self.request, agent=own.name), self.catalog)
        self.play = Play(self.catalog, self.request)
        self.answered: set[str] = set()
        self.settled: list[int] = []
        self.play.start(data.draw(standings(self.catalog)))
        for _ in range(60):
            if self.play.cascade.closed:
                break
            self.step()

    def step(self) -> None:
        if self.play.outcome is None and self.data.draw(st.integers(0, 19)) == 0:
            self.play.leaves()
        last = next(
            (c for c in reversed(self.play.log) if isinstance(c, Reserve | CallModel)), None
        )
        settles = [c for c in self.play.log if isinstance(c, Settle)]
        booked = {c.attempt for c in settles}
        if isinstance(last, Reserve) and last.reservation_id not in self.answered:
            self.reserve(last)
        elif isinstance(last, CallModel) and last.attempt not in booked:
            self.news(last)
        elif len(self.settled) < len(settles) and self.data.draw(st.booleans()):
            order = settles[len(self.settled)]
            self.settled.append(order.attempt)
            self.play.feed(Settled(order.attempt, self.play.standing))
        else:
            self.play.passes(self.data.draw(st.sampled_from([25, 2_000, 30_000])))

    def reserve(self, order: Reserve) -> None:
        """Take the first that fits, as a store does."""
        self.answered.add(order.reservation_id)
        denials = list[Denial]()
        empty = Balance("w", 0, 0, DAY)
        balances = self.play.standing.balances
        for place, candidate in enumerate(order.candidates):
            rows = [balances.get(c.key, empty) for c in candidate.counters]
            why = denial(candidate, rows)
            if why is None and self.data.draw(st.integers(0, 9)):
                self.play.grant(place, tuple(denials))
                return
            if why is not None:
                denials.append(why)
        self.play.deny(*denials)

    def news(self, call: CallModel) -> None:
        bound, most = need(self.catalog, self.request).input_bound, call.candidate.output_tokens_max
        draw = self.data.draw
        match draw(st.sampled_from(["word", "finish", "finish", "end", "fail", "fail", "silence"])):
            case "word":
                text = draw(st.sampled_from([" ", "word", "long " * 500]))
                self.play.feed(ChunkArrived(call.attempt, (TextDelta(text),)))
            case "finish":
                usage = Usage(draw(st.integers(0, bound)), draw(st.integers(0, most)))
                told = draw(st.none() | st.just(usage))
                self.play.feed(ChunkArrived(call.attempt, (), Finish(FinishReason.STOP), told))
            case "end":
                self.play.feed(StreamEnded(call.attempt))
            case "fail":
                cls = draw(
                    st.sampled_from([c for c in FailureClass if c is not FailureClass.CANCELLED])
                )
                at = draw(st.sampled_from([None, self.play.now + 900, self.play.now + 90_000]))
                sent = draw(st.booleans())
                failure = Failure(cls, "broke", reset_at_ms=at, sent=sent)
                self.play.feed(AttemptFailed(call.attempt, failure))
            case _:
                self.play.passes(30_000)

    @property
    def called(self) -> list[Model]:
        return [c.candidate.model for c in self.play.log if isinstance(c, CallModel)]
