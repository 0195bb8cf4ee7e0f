"""Where state lives: the ledger's file, the tokens beside it, and whether callers must be known."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

from escalade_server.api.server import is_loopback
from escalade_server.bootstrap.leasing import journals_of, leased
from escalade_server.bootstrap.options import DEFAULT_STATE, Options, StartError
from escalade_server.bootstrap.post import Post
from escalade_server.bootstrap.strategy import load_strategy
from escalade_server.core.alerting import marks_of
from escalade_server.core.catalog import Counter
from escalade_server.engine import reload
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.entropy import SystemEntropy
from escalade_server.engine.feed import Feed
from escalade_server.engine.leading import Alone
from escalade_server.engine.ports import FeedStore, Leadership, Store, StoreError, Tokens
from escalade_server.engine.tokens import TokenDesk
from escalade_server.engine.traces import TraceStore
from escalade_server.engine.usage import UsageStore
from escalade_server.stores.audit import LedgerDesk
from escalade_server.stores.leased import LeasedStore
from escalade_server.stores.recover import recover
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.redis_audit import RedisLedgerDesk
from escalade_server.stores.redis_link import Place, Way, place_of
from escalade_server.stores.redis_tokens import RedisTokens
from escalade_server.stores.secret import load_secret
from escalade_server.stores.sqlite import SqliteStore
from escalade_server.stores.tokens import SqliteTokens
from escalade_server.strategy.load import Loaded
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log

AnyStore = SqliteStore | RedisStore | LeasedStore
AnyLedgerDesk = LedgerDesk | RedisLedgerDesk
_SERVERS = tuple(f"{scheme}{way.value}" for scheme in ("redis", "rediss") for way in Way)


class Ledger(Store, FeedStore, UsageStore, TraceStore, Protocol):
    """What a server needs of its store."""


def state_path(state: str) -> str | None:
    """Find the file of a state given as a path, `sqlite:PATH` or `sqlite:///PATH`.

    None is memory (`memory:`), for trying things out.

    Raises:
        StartError: a store that is not built.
    """
    state, _ = leased(state)
    if state == "memory:":
        return None
    scheme, colon, rest = state.partition(":")
    if not colon or len(scheme) == 1:  # a drive letter is no scheme
        return state
    if scheme in _SERVERS:
        raise StartError(f"the state {scheme}: is a server, not a file: this works on files only")
    if scheme != "sqlite":
        raise StartError(
            f"the state {scheme}: is not built; give a path, such as --state {DEFAULT_STATE}, or"
            " redis://HOST"
        )
    return rest.removeprefix("//")


def redis_place(state: str) -> Place | None:
    """Find the Redis or Valkey of a state given as a URL of one; None: it is a file.

    Raises:
        StartError: the URL cannot be used; the message never holds its password.
    """
    state, _ = leased(state)
    if state.partition(":")[0] not in _SERVERS:
        return None
    try:
        return place_of(state)
    except StoreError as error:
        raise StartError(f"{error}") from error


def resume_secret_of(path: str | None) -> str:
    """Find what signs resume tokens, beside the ledger; state in memory draws it anew.

    Raises:
        StartError: it cannot be read or made.
    """
    fresh = SystemEntropy.secret()
    try:
        return fresh if path is None else load_secret(f"{path}.secret", fresh)
    except StoreError as error:
        raise StartError(f"{error}") from error


def _beside(path: str) -> str:
    return f"{path}.tokens"


def _tokens_beside(path: str | None, clock: SystemClock, stack: AsyncExitStack) -> Tokens | None:
    """Find the tokens beside a ledger; state in memory has none."""
    if path is None:
        return None
    tokens = SqliteTokens(_beside(path), clock)
    stack.callback(tokens.close)
    return tokens


def token_desk(state: str | None, strategy: str | None) -> TokenDesk:
    """Open the tokens of a state, for an operator's command; a server may run meanwhile.

    Raises:
        StrategyErrors: the strategy does not load.
        StartError: there is no such place.
    """
    stated = state or (load_strategy(strategy).state_url if strategy else None) or DEFAULT_STATE
    place, clock = redis_place(stated), SystemClock()
    if place is not None:
        return TokenDesk(RedisTokens(place), clock, SystemEntropy())
    path = state_path(stated)
    if path is None:
        raise StartError("state in memory keeps no tokens; give a path with --state")
    return TokenDesk(SqliteTokens(_beside(path), clock), clock, SystemEntropy())


def ledger_desk(state: str | None, strategy: str | None) -> tuple[AnyLedgerDesk, list[Counter]]:
    """Open the ledger of a state for an operator's command; a server may run meanwhile.

    The counters are those of the strategy, if one is given.

    Raises:
        StrategyErrors: the strategy does not load.
        StartError: there is no such place.
        StoreError: there is no ledger that can be read.
    """
    loaded = load_strategy(strategy, assume_keys=True) if strategy else None
    stated = state or (loaded.state_url if loaded else None) or DEFAULT_STATE
    counters, place = counters_of(loaded) if loaded else [], redis_place(stated)
    if place is not None:
        return RedisLedgerDesk(place, SystemClock(), Calendar()), counters
    path = state_path(stated)
    if path is None:
        raise StartError("state in memory ends with its server; give a path with --state")
    return LedgerDesk(path, SystemClock(), Calendar()), counters


def auth_required(options: Options, loaded: Loaded, tokens: Tokens | None) -> bool:
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


def is_locked(options: Options, tokens: Tokens | None, now_ms: int) -> bool:
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


def _exists(path: str) -> bool:
    return Path(path).exists()


class Opened(NamedTuple):
    """A ledger that is open, with its feed."""

    store: AnyStore
    feed: Feed
    where: str
    """As people are told: without a password (D6)."""
    is_new: bool
    secret: str
    """Signs resume tokens; of all servers that share the ledger."""
    tokens: Tokens | None
    leads: Leadership
    free: Callable[[str, str], None]
    """Hears of request ids that run here no more (R27)."""
    advice: str = ""
    """What is not as it should be, though it serves."""


async def open_store(
    state: str,
    clock: SystemClock,
    loaded: Loaded,
    stack: AsyncExitStack,
    tell: Callable[[str], None],
    *,
    post: Post | None = None,
) -> Opened:
    """Open the ledger of a strategy, booking what dead owners left; ``stack`` closes it.

    The event feed is kept in it, and told of what it kept from the first moment on.

    ``tell`` hears why it cannot be written, and nothing when it can be again. A worker shares it
    with the others of its ``post``.

    Raises:
        StartError: it cannot be used; the message says why.
    """
    place, zone = redis_place(state), loaded.catalog.rules.report_zone
    crew = None if post is None else post.crew
    journal = place and place.journal
    if place is not None and place.journal and crew is not None and crew.number > 1:
        place = place._replace(journal=f"{place.journal}-{crew.number}")
    path = None if place is not None else state_path(state)
    is_new = path is None or not _exists(path)

    def beneath(tell: Callable[[str], None]) -> SqliteStore | RedisStore:
        if place is None:
            return SqliteStore(path, clock, Calendar(), tell=tell, zone=zone, crew=crew)
        fresh = SystemEntropy.secret()
        return RedisStore(place, clock, Calendar(), tell, zone=zone, secret=fresh)

    _, is_leased = leased(state)
    if is_leased:
        journals = journals_of(path, journal, is_server=place is not None)
        store: AnyStore = LeasedStore(beneath, journals, clock, Calendar(), tell, zone=zone)
    else:
        store = beneath(tell)
    stack.push_async_callback(store.close)
    feed = Feed(store, clock)
    store.follow(feed.told, marks_of(loaded.catalog))
    try:
        await store.open(counters_of(loaded))
    except StoreError as error:
        raise StartError(f"{error}") from error
    shared = store.beneath if isinstance(store, LeasedStore) else store
    if isinstance(shared, RedisStore):
        return Opened(
            store, feed, repr(place), shared.is_new, shared.secret, shared.shared, shared.shared,
            shared.free, shared.advice,
        )  # fmt: skip
    return Opened(
        store, feed, state, is_new, resume_secret_of(path), _tokens_beside(path, clock, stack),
        crew or Alone(), lambda _agent, _request_id: None,
    )  # fmt: skip


def counters_of(loaded: Loaded) -> list[Counter]:
    """List every counter of a strategy once, in the order of the file."""
    return list(reload.counters_of(loaded.catalog).values())
