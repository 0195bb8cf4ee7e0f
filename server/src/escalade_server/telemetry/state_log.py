"""What changed around the tasks, as lines of the log: layers, cooldowns, circuits.

It stands between the lookout, which finds such changes, and the feed, which keeps them.
"""

from escalade_server.core.facts import AlertKind
from escalade_server.core.standing import CircuitState
from escalade_server.engine.lookout import Told
from escalade_server.engine.news import AlertNews, ModelNews, News, Once
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log

_LAYERS = {
    AlertKind.EXHAUSTED: names.LAYER_EXHAUSTED,
    AlertKind.RECOVERED: names.LAYER_RECOVERED,
}
_CIRCUITS = {
    CircuitState.OPEN: names.CIRCUIT_OPENED,
    CircuitState.HALF_OPEN: names.CIRCUIT_HALF_OPEN,
    CircuitState.CLOSED: names.CIRCUIT_CLOSED,
}


class StateLog:
    """Implements ``engine.lookout.Told``: writes the line, and passes the news on."""

    def __init__(self, log: Log, feed: Told) -> None:
        """Write to ``log``, pass on to ``feed``."""
        self._log, self._feed = log, feed

    def publish(self, news: News, *, agent: str = "", once: Once | None = None) -> None:
        """Tell news."""
        if isinstance(news, AlertNews) and news.kind in _LAYERS:
            write = self._log.warning if news.kind is AlertKind.EXHAUSTED else self._log.info
            write(_LAYERS[news.kind], layer=news.place.layer, detail=news.detail)
        elif isinstance(news, ModelNews):
            self._model(news, agent)
        self._feed.publish(news, agent=agent, once=once)

    def _model(self, news: ModelNews, agent: str) -> None:
        said = {"subject": str(news.place), "detail": news.detail}
        if news.reason == "cooldown":
            self._log.warning(
                names.MODEL_SET_ASIDE, **said, scope=news.scope, agent=agent,
                until_ms=news.until_ms,
            )  # fmt: skip
        elif not news.detail.startswith("the circuit"):
            self._log.info(names.MODEL_BACK, **said, agent=agent)
        elif news.circuit is CircuitState.OPEN:
            self._log.warning(names.CIRCUIT_OPENED, **said, until_ms=news.until_ms)
        else:
            self._log.info(_CIRCUITS[news.circuit], **said)
