"""From a strategy file to a running server.

What is started is stopped in reverse, which is the order of an orderly shutdown (P4): health says
NOT_SERVING, the server stops within its grace, the engine settles what is left, then the store,
the connections to providers, and the log are closed.
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TextIO

from escalade_server.api.operations_servicer import ServiceInfo
from escalade_server.api.server import ApiServer, BindError, ServerOptions, build_server
from escalade_server.bootstrap.clock import clock_watch, witness_of, witnesses_of
from escalade_server.bootstrap.log import (
    catch_strays,
    open_log,
    say_ledger,
    say_started,
    say_tls,
)
from escalade_server.bootstrap.options import DEFAULT_STATE, Options, StartError
from escalade_server.bootstrap.process import version
from escalade_server.bootstrap.state import (
    auth_required,
    is_locked,
    open_store,
    recover_store,
    state_path,
    tokens_of,
)
from escalade_server.bootstrap.strategy import DIALECTS
from escalade_server.core.commands import SetBench
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.engine import Engine
from escalade_server.engine.entropy import SystemEntropy
from escalade_server.engine.ports import Observer
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.evidence import EvidenceClassifier
from escalade_server.providers.http import HttpClient, HttpLimits
from escalade_server.providers.registry import CODECS, ProviderRegistry
from escalade_server.stores.tokens import SqliteTokens
from escalade_server.strategy.load import Loaded, load
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log, LogObserver, is_text
from escalade_server.telemetry.mistakes import LoggedMistakes
from escalade_server.telemetry.observers import Observers
from escalade_server.telemetry.watchdog import Watchdog

DRAIN_S = 10.0
"""Time to settle what runs after the grace; the rest is booked in full at the next start."""


class Running:
    """A server that serves until ``stop``."""

    def __init__(
        self,
        *,
        loaded: Loaded,
        target: str,
        state: str,
        ledger_is_new: bool,
        nobody_known: bool,
        engine: Engine,
        watchdog: Watchdog,
        stack: AsyncExitStack,
    ) -> None:
        """Use ``start``."""
        self.loaded = loaded
        self.target = target
        """Where it listens, as clients dial it."""
        self.state = state
        self.ledger_is_new = ledger_is_new
        self.nobody_known = nobody_known
        """Callers must be known, and as yet there is no token for any."""
        self.engine = engine
        self.watchdog = watchdog
        self._stack = stack

    async def stop(self) -> None:
        """Stop in order (see the top of the file); safe twice."""
        await self._stack.aclose()


async def start(
    options: Options,
    *,
    environ: Mapping[str, str] | None = None,
    observers: Sequence[Observer] = (),
    log_stream: TextIO | None = None,
) -> Running:
    """Build everything and serve. Must run inside the event loop that is to serve.

    Args:
        options: What to serve, and where.
        environ: Holds the keys; default is this process's environment.
        observers: Further watchers, beside the log.
        log_stream: Where the log goes; default is standard error.

    Raises:
        StrategyErrors: the strategy does not load.
        StartError: the state cannot be opened, or the address not be listened on.
    """
    stream = log_stream or sys.stderr
    keys = os.environ if environ is None else environ
    loaded = load(options.strategy, environ=keys, built_dialects=DIALECTS)
    state = options.state or loaded.state_url or DEFAULT_STATE
    path = state_path(state)
    clock, entropy = SystemClock(witnessed=bool(witnesses_of(loaded))), SystemEntropy()
    async with AsyncExitStack() as stack:
        log = open_log(options, stream, stack)
        mistakes = LoggedMistakes(log, entropy.task_id)
        catch_strays(stack, mistakes, log)
        http = await stack.enter_async_context(HttpClient(HttpLimits()))
        is_new = path is None or not _exists(path)
        if options.recover:
            await recover_store(path, clock, log)
        store = await open_store(path, clock, loaded, stack, partial(say_ledger, log))

        def heed(order: SetBench) -> None:
            engine.heed(order)

        engine = Engine(
            catalog=loaded.catalog,
            store=store,
            providers=providers_of(loaded, http, clock, heed, witness_of(clock, loaded)),
            clock=clock,
            entropy=entropy,
            observer=_observer_of(options, loaded, log, observers),
            classifier=EvidenceClassifier(),
            mistakes=mistakes,
        )
        stack.push_async_callback(_drain, engine, log)
        tokens = tokens_of(path, clock, stack)
        told = server_options(options, loaded, tokens, clock)
        nobody_known = told.auth_required and is_locked(options, tokens, clock.now_ms())
        server = build_server(
            engine, told, mistakes=mistakes, tokens=tokens, tls_told=partial(say_tls, log)
        )
        stack.push_async_callback(_stop_server, server, options.grace_s, log)
        target, watchdog = await _listen(server, options.host), _watched(server, log)
        server.background.start(clock_watch(clock, loaded, http, log))
        if not is_text(stream, options.log_format):  # people are told by the command itself
            say_started(log, loaded, target, state if is_new else "", nobody_known=nobody_known)
        return Running(
            loaded=loaded,
            target=target,
            state=state,
            ledger_is_new=is_new,
            nobody_known=nobody_known,
            engine=engine,
            watchdog=watchdog,
            stack=stack.pop_all(),
        )


def _observer_of(
    options: Options, loaded: Loaded, log: Log, observers: Sequence[Observer]
) -> Observer:
    keeps = loaded.catalog.rules.log_escalations
    log_observer = LogObserver(log, options.log_level, log_escalations=keeps)
    return Observers((log_observer, *observers)) if observers else log_observer


def _watched(server: ApiServer, log: Log) -> Watchdog:
    """Watch the event loop for as long as the server runs."""
    watchdog = Watchdog(log)
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
    options: Options, loaded: Loaded, tokens: SqliteTokens | None, clock: SystemClock
) -> ServerOptions:
    """Say where to listen, to whom, and what the status tells of the service."""
    now_ms = clock.now_ms()
    return ServerOptions(
        host=options.host,
        port=options.port,
        auth_required=auth_required(options, loaded, tokens),
        tls=options.tls,
        allow_insecure=options.allow_insecure,
        reflection=options.reflection,
        info=ServiceInfo(
            version=version(),
            started_ms=now_ms,
            strategy_sha256=hashlib.sha256(Path(loaded.file).read_bytes()).hexdigest(),
            strategy_loaded_ms=now_ms,
            not_in_effect=tuple(str(key) for key in loaded.not_yet_in_effect),
        ),
    )


async def _stop_server(server: ApiServer, grace_s: float, log: Log) -> None:
    log.info(names.SERVER_DRAINING, calls=len(server.calls), grace_s=grace_s)
    await server.stop(grace_s)


async def _drain(engine: Engine, log: Log) -> None:
    try:
        async with asyncio.timeout(DRAIN_S):
            await engine.drain()
    except TimeoutError:
        log.warning(names.SERVER_DRAINING, unsettled=engine.running)
    log.info(names.SERVER_STOPPED)


def _exists(path: str) -> bool:
    return Path(path).exists()
