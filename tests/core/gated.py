"""Tasks with gates: a strategy that asks for them, and models that answer in turn."""

from escalade_server.core.catalog import Catalog
from escalade_server.core.commands import Deliver, Settle
from escalade_server.core.events import Settled
from escalade_server.core.failure import FailureClass
from escalade_server.core.gates import Demands, Gate, OnUnmet, Quality
from escalade_server.core.rules import Rules
from escalade_server.core.task import Request
from tests.core.builders import request, three_layers
from tests.core.play import Play

WORDS = Demands(frozenset({Gate.PATTERN}), literals=("good",))
DELIVER = Quality(WORDS, on_unmet=OnUnmet.DELIVER)


def strategy(quality: Quality) -> Catalog:
    return three_layers(Rules(quality=quality))


def play(cat: Catalog, *answers: str | FailureClass, req: Request | None = None) -> Play:
    """Answer each attempt in turn: with a text, in two reads, or with a failure."""
    game = Play(cat, req or request())
    game.start()
    for answer in answers:
        game.grant()
        if isinstance(answer, str):
            game.says(answer[:2])
            game.says(answer[2:])
            game.finishes()
        else:
            game.fails(answer)
    return game


def settle(game: Play) -> Play:
    """Make every settlement durable, in order."""
    for order in [order for order in game.log if isinstance(order, Settle)]:
        game.feed(Settled(order.attempt, game.standing))
    return game


def delivered(game: Play) -> list[int]:
    return [order.attempt for order in game.log if isinstance(order, Deliver)]
