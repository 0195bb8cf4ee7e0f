"""What a person should know of an answer that came all the same (U26, U30)."""

import re

from escalade_server.core.attempt import Live
from escalade_server.core.commands import Announce
from escalade_server.core.facts import Alert, AlertKind
from escalade_server.core.money import cost_nanos
from escalade_server.core.task import Usage

# A dated or otherwise marked edition of the model that was asked for is that model. A short
# number is a version, so another model: gpt-4 and gpt-4.1, claude-sonnet-4 and claude-sonnet-4-5.
_NUMBER = r"[-@:_](?:\d{4}-\d\d-\d\d|\d\d-\d{4}|\d\d-\d\d|\d{3,})(?!\d)"
_WORD = r"[-@:_.]?(?:latest|preview|experimental|exp|free|beta|it|hf)"
_EDITION = re.compile(rf"(?:{_NUMBER}|{_WORD})++")


def is_other_model(asked: str, told: str) -> bool:
    """Tell whether an answer names another model than its request: no other edition of it.

    Names of the owner before a slash, and capitals, tell nothing apart.
    """
    if not told or told == asked:
        return False
    asked, told = asked.rpartition("/")[2].lower(), told.rpartition("/")[2].lower()
    short, long = sorted((asked, told), key=len)
    if asked == told:
        return False
    return not (long.startswith(short) and _EDITION.fullmatch(long, len(short)))


def list_nanos(live: Live, usage: Usage) -> int:
    """List value of an answer: of two models, the one asked for and the one named, the dearer."""
    model, told = live.candidate.model, live.reported_model
    nanos = cost_nanos(usage, model.price)
    if told != model.wire_id and model.siblings and is_other_model(model.wire_id, told):
        same = [price for wire_id, price in model.siblings if not is_other_model(wire_id, told)]
        nanos = max([nanos, *(cost_nanos(usage, price) for price in same)])
    return nanos


def alerts(live: Live) -> list[Announce]:
    """Say what is odd about the usage and the model of an answer."""
    model, told = live.model, []
    if live.oddities is not None and live.oddities.unbelievable:
        told.append(f"{model.key} reports usage beyond belief: it was counted here")
    if is_other_model(model.wire_id, live.reported_model):
        told.append(f"{model.key} answers as another model: {live.reported_model[:64]!r}")
    return [Announce(Alert(AlertKind.PROVIDER, detail, model)) for detail in told]
