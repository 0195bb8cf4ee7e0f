"""Where state lives: the ledger's file, the tokens beside it, and whether callers must be known."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from escalade_server.api.server import is_loopback
from escalade_server.bootstrap.options import DEFAULT_STATE, Options, StartError
from escalade_server.bootstrap.strategy import load_strategy
from escalade_server.core.catalog import Counter
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.entropy import SystemEntropy
from escalade_server.engine.ports import StoreError
from escalade_server.engine.tokens import TokenDesk
from escalade_server.stores.recover import recover
from escalade_server.stores.sqlite import SqliteStore
from escalade_server.stores.tokens import SqliteTokens
from escalade_server.strategy.load import Loaded
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log


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


def is_locked(options: Options, tokens: SqliteTokens | None, now_ms: int) -> bool:
    """Tell whether nobody at all could be let in as things are."""
    if _by_certificate(options):
        return False
    return tokens is None or not any(token.is_live(now_ms) for token in tokens.all())


async def recover_store(path: str | None, clock: SystemClock, log: Log) -> None:
    """Save what can be read of a damaged ledger, and log what was lost (S4).

    Raises:
        StartError: nothing can be saved; the message says why.
    """
    if path is None:
        return
    try:
        told = await asyncio.to_thread(recover, path, clock.now_ms())
    except StoreError as error:
        raise StartError(f"{error}") from error
    log.warning(names.LEDGER_RECOVERED, detail=told)


async def open_store(
    path: str | None,
    clock: SystemClock,
    loaded: Loaded,
    stack: AsyncExitStack,
    tell: Callable[[str], None],
) -> SqliteStore:
    """Open the ledger of a strategy, booking what dead owners left; ``stack`` closes it.

    ``tell`` hears why it cannot be written, and nothing when it can be again.

    Raises:
        StartError: the file cannot be used; the message says why.
    """
    store = SqliteStore(path, clock, Calendar(), tell=tell)
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
