"""The composition root: from a strategy file to a running server. It knows every class.

What is started is stopped in reverse, which is the order of an orderly shutdown (P4): health says
NOT_SERVING, the server stops within its grace, the engine settles what is left, then the store,
the connections to providers, and the log are closed.
"""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal, TextIO, TypeVar

from escalade_server.api.operations_servicer import ServiceInfo
from escalade_server.api.server import (
    ApiServer,
    BindError,
    ServerOptions,
    build_server,
    is_loopback,
)
from escalade_server.api.tls import TlsFiles
from escalade_server.core.catalog import Counter, Rank
from escalade_server.core.commands import SetBench
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.engine import Engine
from escalade_server.engine.entropy import SystemEntropy
from escalade_server.engine.ports import Observer, StoreError, Token
from escalade_server.engine.tokens import TokenDesk
from escalade_server.provider_simulator import (
    ScenarioError,
    Simulator,
    default_scenario,
    load_scenario,
)
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.evidence import EvidenceClassifier
from escalade_server.providers.http import HttpClient, HttpLimits
from escalade_server.providers.registry import CODECS, ProviderRegistry
from escalade_server.stores.sqlite import SqliteStore
from escalade_server.stores.tokens import SqliteTokens
from escalade_server.strategy.errors import StrategyErrors
from escalade_server.strategy.load import Loaded, load
from escalade_server.strategy.model import schema
from escalade_server.strategy.vocabulary import vocabulary
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Format, Level, Log, LogObserver, is_text, make_logger
from escalade_server.telemetry.mistakes import LoggedMistakes
from escalade_server.telemetry.observers import Observers
from escalade_server.telemetry.sink import LineSink

if sys.platform == "win32":
    from asyncio import new_event_loop
else:
    from uvloop import new_event_loop

__all__ = [
    "NOBODY_KNOWN",
    "Authentication",
    "Format",
    "Level",
    "Loaded",
    "Options",
    "Rank",
    "Running",
    "ScenarioError",
    "Simulator",
    "StartError",
    "StoreError",
    "StrategyErrors",
    "TlsFiles",
    "Token",
    "TokenDesk",
    "load_strategy",
    "make_simulator",
    "missing_keys",
    "run",
    "schema",
    "start",
    "stop_signal",
    "token_desk",
    "version",
    "vocabulary",
]

T = TypeVar("T")

Authentication = Literal["auto", "required", "optional"]
"""Auto: required once there is anybody to know, or anybody else to reach the server."""

DEFAULT_STATE = "escalade.sqlite3"
DIALECTS = frozenset(CODECS)
NOBODY_KNOWN = "Callers must be known, and no token is live: make one with `escalade token create`"
DRAIN_S = 10.0
"""Time to settle what runs after the grace; the rest is booked in full at the next start."""


class StartError(Exception):
    """The server cannot start; the message says the mend."""


@dataclass(frozen=True, slots=True)
class Options:
    """What ``serve`` is told."""

    strategy: str
    host: str = "127.0.0.1"
    port: int = 50051
    """0 lets the system choose."""
    state: str | None = None
    """A path or URL; None: what the strategy says, else a file in the working directory."""
    tls: TlsFiles | None = None
    auth: Authentication = "auto"
    allow_insecure: bool = False
    """Listen beyond loopback in plaintext, or with ``auth`` optional."""
    reflection: bool = False
    grace_s: float = 30.0
    log_format: Format | None = None
    """None: text on a terminal, else JSON."""
    log_level: Level = "info"


def version() -> str:
    """Answer the version of this distribution."""
    return metadata.version("escalade-server")


def load_strategy(path: str, *, assume_keys: bool = False) -> Loaded:
    """Load a strategy with the keys of this process's environment.

    Raises:
        StrategyErrors: everything that is wrong with the file.
    """
    return load(path, environ=os.environ, built_dialects=DIALECTS, assume_keys=assume_keys)


def missing_keys(loaded: Loaded) -> dict[tuple[str, str], str]:
    """Say which accounts, by (provider, account), have no usable key, and why (R12)."""
    return {where: found.missing for where, found in loaded.endpoints.items() if found.missing}


def make_simulator(scenario: str | None = None) -> Simulator:
    """Make the simulator of providers, not yet listening; ``scenario`` is the text of its file.

    Raises:
        ScenarioError: the scenario cannot be played.
    """
    return Simulator(default_scenario() if scenario is None else load_scenario(scenario))


def run(main: Coroutine[None, None, T]) -> T:
    """Run the event loop: uvloop where there is one."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def stop_signal() -> asyncio.Event:
    """Turn the first SIGTERM or SIGINT into an event; the second exits at once."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def state_path(state: str) -> str | None:
    """Find the file of a state given as a path, `sqlite:PATH` or `sqlite:///PATH`.

    None is memory (`memory:`), for trying things out.

    Raises:
        StartError: a store that is not built.
    """
    if state == "memory:":
        return None
    scheme, colon, rest = state.partition(":")
    if not colon or len(scheme) == 1:  # a drive letter is no scheme
        return state
    if scheme != "sqlite":
        raise StartError(
            f"the state {scheme}: is not built yet; give a path, such as --state {DEFAULT_STATE}"
        )
    return rest.removeprefix("//")


def tokens_of(path: str | None, clock: SystemClock, stack: AsyncExitStack) -> SqliteTokens | None:
    """Find the tokens beside a ledger; state in memory has none."""
    if path is None:
        return None
    tokens = SqliteTokens(_beside(path), clock)
    stack.callback(tokens.close)
    return tokens


def _beside(path: str) -> str:
    return f"{path}.tokens"


def token_desk(state: str | None, strategy: str | None) -> TokenDesk:
    """Open the tokens of a state, for an operator's command; a server may run meanwhile.

    Raises:
        StrategyErrors: the strategy does not load.
        StartError: there is no such place.
    """
    stated = state or (load_strategy(strategy).state_url if strategy else None)
    path, clock = state_path(stated or DEFAULT_STATE), SystemClock()
    if path is None:
        raise StartError("state in memory keeps no tokens; give a path with --state")
    return TokenDesk(SqliteTokens(_beside(path), clock), clock, SystemEntropy())


def auth_required(options: Options, loaded: Loaded, tokens: SqliteTokens | None) -> bool:
    """Say whether every caller must be known.

    On a laptop nobody need be: loopback, no agents in the strategy, no token ever made. A token
    that was revoked still counts, so that revoking the last one opens nothing. It is asked once,
    at the start: a server never changes its mind while it serves.

    Raises:
        StartError: the tokens cannot be read.
    """
    try:
        made = tokens.all() if tokens is not None else ()
    except StoreError as error:
        raise StartError(f"{error}") from error
    if options.auth != "auto":
        return options.auth == "required"
    is_known = bool(loaded.catalog.agents or made or _by_certificate(options))
    return is_known or not is_loopback(options.host)


def _by_certificate(options: Options) -> bool:
    return options.tls is not None and options.tls.client_ca is not None


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
    clock, entropy = SystemClock(), SystemEntropy()
    async with AsyncExitStack() as stack:
        log = _open_log(options, stream, stack)
        mistakes = LoggedMistakes(log, entropy.task_id)
        _catch_strays(stack, mistakes, log)
        http = await stack.enter_async_context(HttpClient(HttpLimits()))
        is_new = path is None or not _exists(path)
        store = await _open_store(path, clock, loaded, stack)
        rules = loaded.catalog.rules
        log_observer = LogObserver(log, options.log_level, log_escalations=rules.log_escalations)

        def heed(order: SetBench) -> None:
            engine.heed(order)

        engine = Engine(
            catalog=loaded.catalog,
            store=store,
            providers=providers_of(loaded, http, clock, heed),
            clock=clock,
            entropy=entropy,
            observer=Observers((log_observer, *observers)) if observers else log_observer,
            classifier=EvidenceClassifier(),
            mistakes=mistakes,
        )
        stack.push_async_callback(_drain, engine, log)
        tokens = tokens_of(path, clock, stack)
        told = server_options(options, loaded, tokens, clock)
        nobody_known = told.auth_required and _is_locked(options, tokens, clock.now_ms())
        server = build_server(
            engine, told, mistakes=mistakes, tokens=tokens, tls_told=partial(_say_tls, log)
        )
        stack.push_async_callback(_stop_server, server, options.grace_s, log)
        target = await _listen(server, options.host)
        if not is_text(stream, options.log_format):  # people are told by the command itself
            _say(log, loaded, target, state if is_new else "", nobody_known=nobody_known)
        return Running(
            loaded=loaded,
            target=target,
            state=state,
            ledger_is_new=is_new,
            nobody_known=nobody_known,
            engine=engine,
            stack=stack.pop_all(),
        )


def _open_log(options: Options, stream: TextIO, stack: AsyncExitStack) -> Log:
    sink = LineSink(stream)
    log = make_logger(sink, stream, options.log_format, options.log_level)
    stack.callback(_close_log, sink, log)
    return log


async def _listen(server: ApiServer, host: str) -> str:
    """Start to listen; answer the target that clients dial."""
    try:
        port = await server.start()
    except BindError as error:
        raise StartError(f"{error}") from error
    return f"{f'[{host}]' if ':' in host else host}:{port}"


async def _open_store(
    path: str | None, clock: SystemClock, loaded: Loaded, stack: AsyncExitStack
) -> SqliteStore:
    store = SqliteStore(path, clock, Calendar())
    stack.push_async_callback(store.close)
    try:
        await store.open(counters_of(loaded))
    except StoreError as error:
        raise StartError(f"{error}") from error
    return store


def counters_of(loaded: Loaded) -> list[Counter]:
    """List every counter of a strategy once, in the order of the file."""
    catalog = loaded.catalog
    counters = [counter for model in catalog.models for counter in model.counters]
    counters += [counter for agent in catalog.agents.values() for counter in agent.counters]
    return list({counter.key: counter for counter in counters}.values())


def providers_of(
    loaded: Loaded, http: HttpClient, clock: SystemClock, heed: Callable[[SetBench], None]
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
    return ProviderRegistry.over_http(endpoints, http, clock, connect_ms, heed)


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


def _is_locked(options: Options, tokens: SqliteTokens | None, now_ms: int) -> bool:
    """Tell whether nobody at all could be let in as things are."""
    if _by_certificate(options):
        return False
    return tokens is None or not any(token.is_live(now_ms) for token in tokens.all())


def _say_tls(log: Log, why: str) -> None:
    if why:
        log.error(names.TLS_NOT_RENEWED, detail=why)
    else:
        log.info(names.TLS_RENEWED)


def _close_log(sink: LineSink, log: Log) -> None:
    if sink.lost:
        log.warning(names.LINES_LOST, lines=sink.lost)
    sink.close()


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


def _catch_strays(stack: AsyncExitStack, mistakes: LoggedMistakes, log: Log) -> None:
    """Log what nobody awaited, instead of printing it with its words."""
    loop = asyncio.get_running_loop()

    def on_stray(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            mistakes(error)
        else:
            log.error(names.MISTAKE, detail=context["message"])

    stack.callback(loop.set_exception_handler, loop.get_exception_handler())
    loop.set_exception_handler(on_stray)


def _exists(path: str) -> bool:
    return Path(path).exists()


def _say(log: Log, loaded: Loaded, target: str, new_state: str, *, nobody_known: bool) -> None:
    """Log what was started."""
    layers = [layer.name for layer in loaded.catalog.layers]
    log.info(names.STRATEGY_LOADED, file=loaded.file, layers=layers)
    for notice in loaded.notices:
        log.info(names.STRATEGY_NOTICE, code=notice.code, line=notice.line, detail=notice.sentence)
    for key in loaded.not_yet_in_effect:
        log.warning(names.STRATEGY_NOT_IN_EFFECT, key=key.key, line=key.line, detail=key.sentence)
    for model in loaded.catalog.models:
        if model.absence is not None:
            log.warning(names.MODEL_UNAVAILABLE, model=model.key, detail=model.absence.detail)
    if new_state:
        log.warning(names.LEDGER_NEW, state=new_state)
    if nobody_known:
        log.warning(names.NOBODY_KNOWN, detail=NOBODY_KNOWN)
    log.info(names.SERVER_STARTED, target=target)
