"""Operators' orders about models: wired, and each one a line of the log."""

from escalade_server.engine.controls import Act, ModelDesk
from escalade_server.engine.engine import Engine
from escalade_server.engine.feed import Feed
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log


def desk_of(engine: Engine, feed: Feed, log: Log) -> ModelDesk:
    """Take orders for the models of an engine."""

    def audit(act: Act) -> None:
        log.warning(
            names.OPERATOR_ACTED,
            who=act.who,
            action=act.action.value,
            models=list(act.models),
            until_ms=act.until_ms or None,
            detail=act.note,
        )

    return ModelDesk(engine, feed, audit)
