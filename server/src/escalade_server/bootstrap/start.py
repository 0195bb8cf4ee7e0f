"""From a strategy file to a running server.

What is started is stopped in reverse, which is the order of an orderly shutdown (P4): health says
NOT_SERVING, the server stops within its grace, the engine settles what is left, then the store,
the connections to providers, and the log are closed.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TextIO

from escalade_server.api.operations_servicer import ServiceInfo
from escalade_server.api.server import ApiServer, BindError, ServerOptions, build_server
from escalade_server.bootstrap.clock import clock_watch, witness_of, witnesses_of
from escalade_server.bootstrap.controls import desk_of
from escalade_server.bootstrap.log import (
    catch_strays,
    open_log,
    say_started,
    say_tls,
)
from escalade_server.bootstrap.metrics import Meter
from escalade_server.bootstrap.notices import Notices
from escalade_server.bootstrap.options import DEFAULT_STATE, Options, StartError
from escalade_server.bootstrap.post import Post
from escalade_server.bootstrap.process import version
from escalade_server.bootstrap.reload import Place, StrategyKeeper, unlocked
from escalade_server.bootstrap.reports import reports_of
from escalade_server.bootstrap.state import (
    AnyStore,
    Opened,
    auth_required,
    counters_of,
    is_locked,
    open_store,
    recover_store,
    state_path,
)
from escalade_server.bootstrap.strategy import load_strategy, secrets_of
from escalade_server.bootstrap.tracing import journeys_of, surroundings_of, tracing_of
from escalade_server.checks.gates import AnswerGates
from escalade_server.core.alerting import marks_of
from escalade_server.core.commands import SetBench
from escalade_server.engine.background import Work
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.engine import Engine
from escalade_server.engine.entropy import SystemEntropy
from escalade_server.engine.feed import Feed
from escalade_server.engine.lookout import Lookout
from escalade_server.engine.ports import Observer, StoreError, Tokens
from escalade_server.engine.reopened import Reopened
from escalade_server.engine.sessions import Sessions
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.evidence import EvidenceClassifier
from escalade_server.providers.http import HttpClient, HttpLimits
from escalade_server.providers.poster import HttpPoster
from escalade_server.providers.registry import CODECS, ProviderRegistry
from escalade_server.strategy.load import Loaded
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log, LogObserver, is_text
from escalade_server.telemetry.mistakes import LoggedMistakes
from escalade_server.telemetry.observers import Observers
from escalade_server.telemetry.redact import Redactor
from escalade_server.telemetry.state_log import StateLog
from escalade_server.telemetry.watchdog import Watchdog

DRAIN_S = 10.0
"""Time to settle what runs after the grace; the rest is booked in full at the next start."""


class Running:
    """A server that serves until ``stop``."""

    def __init__(
        self,
        *,
        strategies: StrategyKeeper,
        target: str,
        state: str,
        ledger_is_new: bool,
        nobody_known: bool,
        engine: Engine,
        watchdog: Watchdog,
        metrics: str,
        stack: AsyncExitStack,
    ) -> None:
        """Use ``start``."""
        self.strategies = strategies
        self.target = target
        """Where it listens, as clients dial it."""
        self.state = state
        self.ledger_is_new = ledger_is_new
        self.nobody_known = nobody_known
        """Callers must be known, and as yet there is no token for any."""
        self.engine = engine
        self.watchdog = watchdog
        self.metrics = metrics
        """Where metrics are served; empty: nowhere."""
        self._stack = stack

    @property
    def loaded(self) -> Loaded:
        """The strategy in force."""
        return self.strategies.loaded

    async def stop(self) -> None:
        """Stop in order (see the top of the file); safe twice."""
        await self._stack.aclose()


async def start(
    options: Options,
    *,
    environ: Mapping[str, str] | None = None,
    observers: Sequence[Observer] = (),
    log_stream: TextIO | None = None,
    post: Post | None = None,
) -> Running:
    """Build everything and serve. Must run inside the event loop that is to serve.

    ``environ`` holds the keys; default is this process's environment. ``observers`` watch beside
    the log, which goes to ``log_stream``; default is standard error. ``post`` is that of a worker,
    which shares port and ledger with others.

    Raises:
        StrategyErrors: the strategy does not load.
        StartError: the state cannot be opened, or the address not be listened on.
    """
    stream = log_stream or sys.stderr
    keys = os.environ if environ is None else environ
    loaded = (load_strategy if post is None else post.load)(options.strategy, environ=keys)
    entropy = SystemEntropy()
    async with AsyncExitStack() as stack:
        parts, opened, meter = await _equip(options, stream, loaded, entropy, stack, post)
        store, feed, http, clock = parts.store, parts.feed, parts.http, parts.clock
        log, mistakes = parts.log, parts.mistakes
        around = surroundings_of(lambda: strategies.loaded, parts.redactor.text)
        tracing = tracing_of(keys, log, stack, HttpPoster(http), around)
        traced, kept = journeys_of(tracing, store, around, clock, log)
        observer = Observers((parts.log_observer, feed, traced, *meter.observers, *observers))
        engine = _engine_of(parts, loaded, entropy, observer, opened)
        seen = await stack.enter_async_context(AsyncExitStack())  # until all is drained
        stack.push_async_callback(_drain, engine, log)
        tokens, rules = opened.tokens, loaded.catalog.rules
        told = server_options(options, loaded, tokens, clock, post)
        place = Place(options.strategy, keys, options.state is not None, told.auth_required)
        strategies = _keeper_of(parts, place, loaded, engine)
        nobody_known = told.auth_required and is_locked(options, tokens, clock.now_ms())
        reports, daily = reports_of(store, engine, log, rules.report_zone, opened.leads)
        server = build_server(
            engine, told, mistakes=mistakes, tokens=tokens, tls_told=partial(say_tls, log),
            strategies=strategies, feed=feed, reports=reports, desk=desk_of(engine, feed, log),
            called=meter.called, others=post, traces=kept,
        )  # fmt: skip
        notices = Notices(
            feed, store, clock=clock, entropy=entropy, poster=HttpPoster(http), log=log,
            loaded=lambda: strategies.loaded, leads=opened.leads,
        )  # fmt: skip
        stack.callback(notices.close)
        meter.watch(engine, feed, server.readiness, tracing, opened.leads)
        target, watchdog = await _listen(server, options.host), _watched(server, log, meter.lagged)
        seen.callback(log.info, names.SERVER_STOPPED)
        stack.push_async_callback(_stop_server, server, engine, feed, options.grace_s, log)
        metrics = meter.serve(engine, server, strategies, watchdog, mistakes, seen)
        once, read = post.once if post is not None else _always, lambda: strategies.loaded
        works = [clock_watch(clock, read, http, log), once(strategies.watch), daily.run]
        works += [Reopened(engine).run, once(Lookout(engine, StateLog(log, feed)).run)]
        for work in works if tracing is None else [*works, tracing.exporter.run]:
            server.background.start(work)
        notices.start(server.background)
        if post is not None:
            post.man(engine, strategies, server.calls)
        elif not is_text(stream, options.log_format):  # people are told by the command itself
            new_state = opened.where if opened.is_new else ""
            say_started(log, loaded, target, new_state, nobody_known=nobody_known)
        return Running(
            strategies=strategies, target=target, state=opened.where, engine=engine,
            ledger_is_new=opened.is_new, nobody_known=nobody_known, watchdog=watchdog,
            metrics=metrics, stack=stack.pop_all(),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Parts:
    """What engine and strategies are made of."""

    store: AnyStore
    feed: Feed
    http: HttpClient
    clock: SystemClock
    log: Log
    mistakes: LoggedMistakes
    log_observer: LogObserver
    redactor: Redactor

    def providers(self, loaded: Loaded, heed: Callable[[SetBench], None]) -> ProviderRegistry:
        """Make what calls the models of a strategy."""
        return providers_of(loaded, self.http, self.clock, heed, witness_of(self.clock, loaded))


async def _equip(  # noqa: PLR0917 - each of its own kind
    options: Options, stream: TextIO, loaded: Loaded, entropy: SystemEntropy,
    stack: AsyncExitStack, post: Post | None,
) -> tuple[_Parts, Opened, Meter]:  # fmt: skip
    """Open the log first, and then the ledger."""
    redactor, number = Redactor(secrets_of(loaded)), post.number if post is not None else 0
    log, sink = open_log(options, stream, stack, number, redactor)
    meter, mistakes = Meter(options, log, sink), LoggedMistakes(log, entropy.task_id)
    catch_strays(stack, mistakes, log)
    clock = SystemClock(witnessed=bool(witnesses_of(loaded)))
    http = await stack.enter_async_context(HttpClient(HttpLimits()))
    state = options.state or loaded.state_url or DEFAULT_STATE
    if options.recover:
        await recover_store(state_path(state), clock, log)
    opened = await open_store(state, clock, loaded, stack, meter.ledger, post=post)
    if opened.advice:
        log.warning(names.LEDGER_OUTDATED, detail=opened.advice)
    keeps = loaded.catalog.rules.log_escalations
    every = is_text(stream, options.log_format)
    told = LogObserver(log, options.log_level, log_escalations=keeps, every_task=every)
    parts = _Parts(opened.store, opened.feed, http, clock, log, mistakes, told, redactor)
    return parts, opened, meter


def _engine_of(
    parts: _Parts, loaded: Loaded, entropy: SystemEntropy, observer: Observer, opened: Opened
) -> Engine:
    def heed(order: SetBench) -> None:
        engine.heed(order)

    engine = Engine(
        catalog=loaded.catalog,
        store=parts.store,
        providers=parts.providers(loaded, heed),
        clock=parts.clock,
        entropy=entropy,
        observer=observer,
        classifier=EvidenceClassifier(),
        checker=AnswerGates(),
        mistakes=parts.mistakes,
        resume_secret=opened.secret,
        free=opened.free,
        sessions=Sessions(parts.store, parts.clock, opened.secret),
    )
    for order in unlocked(loaded, parts.store.standing(parts.clock.now_ms())):
        engine.heed(order)
    return engine


def _keeper_of(parts: _Parts, place: Place, loaded: Loaded, engine: Engine) -> StrategyKeeper:
    store, clock = parts.store, parts.clock

    async def serve(new: Loaded) -> None:
        """Put another strategy in force; what may fail comes first, and then all at once."""
        found = parts.providers(new, engine.heed)
        await store.adopt(counters_of(new), marks_of(new.catalog))
        engine.adopt(new.catalog, found)
        for order in unlocked(new, store.standing(clock.now_ms()), keeper.loaded):
            with suppress(StoreError):  # the key is tried again by an operator's word, or a restart
                await store.bench(order, clock.now_ms())
        parts.redactor.learn(secrets_of(new))
        parts.log_observer.log_escalations = new.catalog.rules.log_escalations
        clock.witnessed = bool(witnesses_of(new))

    keeper = StrategyKeeper(
        place,
        loaded,
        clock=clock,
        log=parts.log,
        mistakes=parts.mistakes,
        spends=engine.spends,
        serve=serve,
        tell=parts.feed.publish,
    )
    return keeper


def _always(work: Work) -> Work:
    return work


def _watched(server: ApiServer, log: Log, told: Callable[[float], None]) -> Watchdog:
    """Watch the event loop for as long as the server runs."""
    watchdog = Watchdog(log, told=told)
    server.background.start(watchdog.run)
    return watchdog


async def _listen(server: ApiServer, host: str) -> str:
    """Start to listen; answer the target that clients dial."""
    try:
        port = await server.start()
    except BindError as error:
        raise StartError(f"{error}") from error
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def providers_of(
    loaded: Loaded,
    http: HttpClient,
    clock: SystemClock,
    heed: Callable[[SetBench], None],
    witness: Callable[[str, str], None],
) -> ProviderRegistry:
    """Hand each account its key; models of the accounts left out are absent from the catalog."""
    endpoints = [
        (
            found.dialect,
            Endpoint(
                found.provider,
                found.account,
                found.base_url,
                found.secret.reveal() if found.secret else "",
                found.connect_ms,
            ),
        )
        for found in loaded.endpoints.values()
        if found.dialect in CODECS and not found.missing
    ]
    connect_ms = loaded.catalog.rules.connect_ms
    return ProviderRegistry.over_http(
        endpoints, http, clock, connect_ms, heed=heed, witness=witness
    )


def server_options(
    options: Options, loaded: Loaded, tokens: Tokens | None, clock: SystemClock, post: Post | None
) -> ServerOptions:
    """Say where to listen, to whom, and what the status tells of the service."""
    return ServerOptions(
        host=options.host,
        port=options.port,
        auth_required=auth_required(options, loaded, tokens),
        tls=options.tls,
        allow_insecure=options.allow_insecure,
        reflection=options.reflection,
        reuse_port=post is not None,
        info=ServiceInfo(
            version=version(),
            started_ms=clock.now_ms() if post is None else post.started_ms,
        ),
    )


async def _stop_server(
    server: ApiServer, engine: Engine, feed: Feed, grace_s: float, log: Log
) -> None:
    log.info(names.SERVER_DRAINING, calls=len(server.calls), grace_s=grace_s)
    await server.drain()
    engine.hand_over()
    feed.close()
    await server.stop(grace_s)


async def _drain(engine: Engine, log: Log) -> None:
    try:
        async with asyncio.timeout(DRAIN_S):
            await engine.drain()
    except TimeoutError:
        log.warning(names.SERVER_DRAINING, unsettled=engine.running)
