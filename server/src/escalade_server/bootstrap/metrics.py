"""What a server measures of itself, and where it shows it: ``serve --metrics HOST:PORT``.

Without that option nothing is counted. Readiness is kept either way: it is for health checks too.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from escalade_server.api.methods import Called
from escalade_server.api.server import ApiServer
from escalade_server.bootstrap.log import say_ledger, say_readiness
from escalade_server.bootstrap.options import Options, StartError
from escalade_server.bootstrap.process import version
from escalade_server.bootstrap.reload import StrategyKeeper
from escalade_server.bootstrap.tracing import Tracing
from escalade_server.core.catalog import Billing
from escalade_server.engine.engine import Engine
from escalade_server.engine.feed import Feed
from escalade_server.engine.news import Entry
from escalade_server.engine.ports import Duty, Leadership, Mistakes, Observer
from escalade_server.engine.readiness import LEDGER, Readiness
from escalade_server.stores.leased import LeasedStore
from escalade_server.stores.redis import RedisStore
from escalade_server.strategy.load import Loaded
from escalade_server.telemetry import catalogue, names
from escalade_server.telemetry.endpoint import Endpoint, EndpointError, Probe, Render
from escalade_server.telemetry.gather import Gathered
from escalade_server.telemetry.instruments import Sampled, Samples
from escalade_server.telemetry.logs import Log
from escalade_server.telemetry.metrics import Metrics
from escalade_server.telemetry.mistakes import LoggedMistakes
from escalade_server.telemetry.outlook import on_loop, state_of
from escalade_server.telemetry.sink import LineSink
from escalade_server.telemetry.timed_store import TimedStore
from escalade_server.telemetry.watchdog import Watchdog

UNIX = "unix:"
PORT = 9464
"""The usual port of OpenTelemetry's Prometheus endpoints."""


class Meter:
    """The metrics and the readiness of one server, from its first moment on."""

    def __init__(self, options: Options, log: Log, sink: LineSink) -> None:
        """Count from now on, if anybody is to be shown it."""
        self._address, self._log, self._sink = options.metrics, log, sink
        self.metrics = Metrics() if options.metrics else None
        self._tracing: Tracing | None = None
        self._goes_on: Callable[[], bool] = lambda: False
        """Whether any layer is served while the ledger cannot be written."""
        self._engine: Engine | None = None
        self._failing = False
        self._readiness: Readiness | None = None
        self._says: set[asyncio.Task[None]] = set()

    @property
    def observers(self) -> tuple[Observer, ...]:
        """Who watches tasks for the metrics."""
        return () if self.metrics is None else (self.metrics,)

    @property
    def called(self) -> Called | None:
        """Who hears of every RPC."""
        return None if self.metrics is None else self.metrics.called

    def lagged(self, late_s: float) -> None:
        """Hear how late the event loop is."""
        if self.metrics is not None:
            self.metrics.lagged(late_s)

    def ledger(self, why: str) -> None:
        """Hear ``why`` the ledger cannot be written, or that it can be again."""
        say_ledger(self._log, why)
        if self._readiness is None or self._engine is None:
            return  # said while it is opened: of the past
        self._failing = bool(why)
        self._engine.ledger_wrong, self._engine.free_goes_on = why, self._goes_on()
        if why and self.metrics is not None:
            self.metrics.ledger_failed()
        well = not why or self._goes_on()
        said = asyncio.ensure_future(self._readiness.set(LEDGER, well=well))
        self._says.add(said)
        said.add_done_callback(self._says.discard)

    def watch(
        self, engine: Engine, feed: Feed, readiness: Readiness, tracing: Tracing | None,
        leads: Leadership,
    ) -> None:  # fmt: skip
        """Watch what has been built; nothing is shown before ``serve``.

        Every server hears the whole feed: what it tells is counted by the one that tells people.
        """
        self._tracing = tracing
        store = engine.store
        if isinstance(store.beneath if isinstance(store, LeasedStore) else store, RedisStore):
            # free models go on without it (S8)
            self._goes_on = lambda: any(
                model.billing is Billing.FREE and model.absence is None
                for model in engine.catalog.models
            )
        self._engine, self._readiness = engine, readiness
        readiness.told = partial(say_readiness, self._log)
        if self.metrics is not None:
            metrics = self.metrics
            engine.deciding = metrics.deciding
            engine.store = TimedStore(engine.store, metrics.stored)

            def told(entries: Sequence[Entry]) -> None:
                if leads.holds(Duty.NOTICES):
                    metrics.told(entries)

            feed.listen(told)

    def serve(  # noqa: PLR0917 - each of its own kind
        self,
        engine: Engine,
        server: ApiServer,
        strategies: StrategyKeeper,
        watchdog: Watchdog,
        mistakes: LoggedMistakes,
        stack: AsyncExitStack,
    ) -> str:
        """Show everything, if asked to, until ``stack`` is closed; answer where.

        Raises:
            StartError: it cannot listen there.
        """
        metrics = self.metrics
        if metrics is None or self._address is None:
            return ""
        metrics.expect(engine.catalog.models)

        def look() -> Mapping[str, Sampled]:
            metrics.expect(engine.catalog.models)  # a reload may bring more
            return {
                **state_of(engine),
                **_here(engine, server, strategies.loaded),
                **self._counted(metrics, server, mistakes),
            }

        registry = CollectorRegistry()
        take = on_loop(asyncio.get_running_loop(), look)
        fed = [*metrics.counters.values(), *metrics.histograms.values()]
        for collector in (*fed, Samples(catalogue.SAMPLED, take)):
            registry.register(collector)
        for library in (ProcessCollector, PlatformCollector, GCCollector):
            library(registry=registry)
        readiness = server.readiness
        return _listen(
            self._address,
            registry,
            log=self._log,
            mistakes=mistakes,
            stack=stack,
            alive=lambda: watchdog.wrong,
            ready=lambda: readiness.wrong or watchdog.wrong,
        )

    def _counted(
        self, metrics: Metrics, server: ApiServer, mistakes: LoggedMistakes
    ) -> dict[str, Sampled]:
        baseline = metrics.counters[catalogue.BASELINE.name].of().value
        return {
            catalogue.SAVINGS.name: {(): baseline - metrics.compared_nanos},
            catalogue.LEDGER_FAILING.name: {(): self._failing},
            catalogue.DEATHS.name: {(): server.background.deaths},
            catalogue.MISTAKES.name: {(): mistakes.count + metrics.failed},
            catalogue.LINES_LOST.name: {(): self._sink.lost},
            catalogue.SPANS_LOST.name: {
                (): 0 if self._tracing is None else self._tracing.exporter.dropped
            },
        }


def _here(engine: Engine, server: ApiServer, loaded: Loaded) -> dict[str, Sampled]:
    models = {model.key: model for model in engine.catalog.models}
    attempts: Sampled = {
        (model.layer, model.provider, model.id): calls
        for key, calls in server.calls.attempts().items()
        if (model := models.get(key)) is not None
    }
    unpriced = sum(notice.code == "PRICE_UNKNOWN" for notice in loaded.notices)
    return {
        catalogue.WAITERS.name: {(): len(engine.room)},
        catalogue.IN_FLIGHT.name: {(): len(server.calls)},
        catalogue.ATTEMPTS_IN_FLIGHT.name: attempts,
        catalogue.BACKLOG.name: {(): engine.unsettled},
        catalogue.READY.name: {(): not server.readiness.wrong},
        catalogue.UNPRICED.name: {(): unpriced},
        catalogue.BUILD.name: {(version(),): 1},
        catalogue.STRATEGY.name: {(loaded.sha256,): 1},
    }


def serve_gathered(
    address: str,
    workers: Callable[[], Mapping[str, str]],
    *,
    log: Log,
    mistakes: Mistakes,
    stack: AsyncExitStack,
    alive: Probe,
    ready: Probe,
) -> str:
    """Show the metrics of several worker processes as those of one; answer where.

    ``workers`` says, at each scrape, on which sockets they serve their own, by number.

    Raises:
        StartError: it cannot listen there.
    """
    registry = CollectorRegistry()
    registry.register(Gathered(workers))
    return _listen(
        address, registry, log=log, mistakes=mistakes, stack=stack, alive=alive, ready=ready
    )


def place_of(address: str) -> tuple[str, int] | str:
    """Read ``HOST:PORT``, ``PORT`` or ``unix:PATH``; without a host it is loopback.

    Raises:
        StartError: it is none of them.
    """
    if address.startswith(UNIX):
        return address.removeprefix(UNIX)
    host, _, port = address.rpartition(":")
    if not port.isdigit() or int(port) >= 1 << 16:
        raise StartError(f"{address!r} is no place for metrics; write HOST:PORT, such as {PORT}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _listen(
    address: str,
    registry: CollectorRegistry,
    *,
    log: Log,
    mistakes: Mistakes,
    stack: AsyncExitStack,
    alive: Probe,
    ready: Probe,
) -> str:
    try:
        endpoint = Endpoint(
            place_of(address),
            render=_renderer(registry),
            alive=alive,
            ready=ready,
            mistakes=mistakes,
        )
    except EndpointError as error:
        raise StartError(f"metrics cannot be served on {address}: {error}") from error
    stack.callback(endpoint.close)
    log.info(names.METRICS_SERVED, address=endpoint.where)
    return endpoint.where


def _renderer(registry: CollectorRegistry) -> Render:
    def render(accept: str) -> tuple[str, bytes]:
        encode, kind = choose_encoder(accept)
        return kind, encode(registry)

    return render
