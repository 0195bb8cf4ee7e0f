"""One task is counted once: in the settlement that answers it, else with its ending (R15)."""

from dataclasses import replace

import pytest

from escalade_server.core.assess import first_look
from escalade_server.core.catalog import Catalog
from escalade_server.core.commands import End, Settle
from escalade_server.core.diary import Diary
from escalade_server.core.events import Repeated
from escalade_server.core.facts import Finished
from escalade_server.core.failure import FailureClass
from escalade_server.core.money import cost_nanos
from escalade_server.core.tally import Tally, compared
from escalade_server.core.task import Usage
from escalade_server.core.trace import Figures
from tests.core.builders import PRICE, T0, request, three_layers
from tests.core.play import Play


def catalog() -> Catalog:
    made = three_layers()
    models = made.models
    return replace(made, baselines=(models[-1], models[0]))


def tallies(play: Play) -> list[Tally]:
    """Every tally that the task has handed out, wherever it rode."""
    ridden = [order.tally for order in play.log if isinstance(order, Settle | End)]
    return [tally for tally in ridden if tally is not None]


def begun(**fields: str) -> Play:
    play = Play(catalog(), replace(request(), **fields))  # type: ignore[arg-type]
    play.start()
    return play


@pytest.mark.parametrize("content", ["", "hash"])
def test_an_answer_is_counted_with_what_pays_for_it(content: str) -> None:
    play = begun(agent="bot", content=content)
    play.grant()
    play.says("Hello")
    play.finishes()
    settle = play.last(Settle)
    model = catalog().models[0]
    usage = settle.usage
    assert settle.tally == Tally(
        "bot", "parse", "free", model.key, baselines=compared(usage, catalog().baselines)
    )
    assert settle.tokens == usage.total_tokens > 0
    assert (settle.figures is not None) == bool(content)
    play.settled()
    assert isinstance(play.outcome, Finished)
    assert len(tallies(play)) == 1
    assert play.last(End).tally is None


def test_what_it_went_through_is_counted_too() -> None:
    play = begun()
    play.grant()
    play.fails(FailureClass.OUTAGE)
    play.settled()
    play.grant()
    play.fails(FailureClass.OUTAGE)
    play.settled()
    play.grant()
    play.says("Hello")
    play.finishes()
    play.settled()
    [tally] = tallies(play)
    assert tally.fallbacks == 1
    assert tally.escalations == (("free", "budget", "outage"),)
    assert tally.layer == "budget"


def test_a_task_without_an_answer_is_counted_with_its_ending() -> None:
    play = begun(agent="bot")
    play.grant()
    play.leaves()
    assert tallies(play) == [Tally("bot", "parse")]
    assert play.last(End).tally == Tally("bot", "parse")


def test_nothing_is_counted_twice_when_the_caller_leaves_a_whole_answer() -> None:
    play = begun()
    play.grant()
    play.says("Hello")
    play.finishes()
    play.leaves()
    play.settled()
    assert len(tallies(play)) == 1


def test_a_repeated_request_is_no_new_task() -> None:
    """R27."""
    for before in (Repeated(1), Repeated(1, "k", Figures(Usage(), 0, 0, 0, 0))):
        play = begun(content="hash")
        play.feed(before)
        assert play.outcome is not None
        assert tallies(play) == []


def test_waiting_is_counted_from_the_first_word_to_the_next_look() -> None:
    diary = Diary(request(), catalog(), first_look(request(), catalog()), ["free"])
    for at in (T0, T0 + 5_000):
        diary.wait(at)
        diary.go_on(at + 1_000)
    diary.go_on(T0 + 60_000)
    tally = diary.tally(None, T0)
    assert (tally.waits, tally.waited_ms) == (1, 2_000)


def test_compared_is_the_list_price_of_the_same_usage() -> None:
    usage = Usage(1_000, 100, 50)
    [(name, nanos), _] = compared(usage, catalog().baselines)
    assert (name, nanos) == ("openai/gpt", cost_nanos(usage, PRICE))
