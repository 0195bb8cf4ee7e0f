"""One connection to Redis or Valkey, and the scripts that run there.

Commands go in batches over one connection, so they are served in the order of the calls. Who waits
too long gives up, and the connection with it: an answer that comes later is never taken for that
of another command. The only file that imports the client library.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, NoScriptError, RedisError, ResponseError

from escalade_server.engine.ports import StoreError
from escalade_server.stores.redis_versions import advice, version_of

SCRIPTS = (
    "open", "reserve", "settle", "find", "bench", "look",
    "write", "page", "tally", "days", "reports", "fold", "free",
    "tokens", "counters", "enter", "audit",
    "session", "keep", "trace",
)  # fmt: skip
_WINDOWS = {"reserve", "enter", "fold"}
"""Scripts that may begin a window."""
VERSION_MIN = (7, 0)
DEADLINE_MS, DEADLINE_MS_MAX = 250, 60_000
CONNECT_S = 2.0
DEFAULT_NAME = "escalade"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_KNOWN = {
    "name", "journal", "password_file", "insecure", "ca", "cert", "key", "deadline_ms",
    "sentinel_password_file",
}  # fmt: skip
_PORT, _SENTINEL_PORT = 6379, 26379


class Way(Enum):
    """How the server that takes writes is found."""

    DIRECT = ""
    SENTINEL = "+sentinel"
    """Sentinels are asked, one after the other, for the primary of a service."""
    CLUSTER = "+cluster"
    """Any node says which one has the ledger."""


class Place(NamedTuple):
    """Where a ledger is, read from its URL."""

    hosts: tuple[tuple[str, int], ...]
    """To enter by, with ports: the server, sentinels, or nodes of a cluster."""
    db: int
    username: str | None
    password: str | None
    tls: bool
    ca: str | None
    cert: str | None
    key: str | None
    insecure: bool
    name: str
    """Of the ledger: several may share one server."""
    journal: str | None
    """A local file in which settlements wait while Redis is gone."""
    deadline_ms: int = DEADLINE_MS
    """How long an order waits for its answer."""
    way: Way = Way.DIRECT
    service: str = ""
    """What sentinels call it."""
    sentinel_password: str | None = None

    def __repr__(self) -> str:
        """Name the server without its password (D6)."""
        scheme = f"{'rediss' if self.tls else 'redis'}{self.way.value}"
        hosts = ",".join(f"[{h}]:{p}" if ":" in h else f"{h}:{p}" for h, p in self.hosts)
        service = f"{self.service}/" if self.service else ""
        return f"{scheme}://{hosts}/{service}{self.db}?name={self.name}"

    def refusal(self, host: str) -> str:
        """Say why a host may not be spoken to as this place says (D19); nothing: it may."""
        if self.tls or self.insecure or host in _LOOPBACK:
            return ""
        return (
            f"{self!r} is another machine, and would be spoken to without TLS: use rediss, or"
            " say insecure=true in the URL if the network is safe"
        )


def place_of(url: str) -> Place:
    """Read where a ledger is.

    `redis://[user[:password]@]host[:port][/db][?name=...&journal=FILE&...]`, `rediss:` with TLS;
    `redis+sentinel://[user:password@]host[:port],host.../service[/db]`, and
    `redis+cluster://[user:password@]host[:port],host...`; both with `rediss`, too. Without TLS
    only this machine is reached, unless `insecure=true` says that it is meant (D19).

    Raises:
        StoreError: it is no such URL; the message never holds the password.
    """
    try:
        parts = urlsplit(url)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        place = _place(parts, query)
    except ValueError as error:
        raise StoreError(
            "the state is no URL of a Redis: give redis[s]://[user:password@]host[:port][/db],"
            " redis[s]+sentinel://host,host/service[/db] or redis[s]+cluster://host,host"
        ) from error
    unknown = sorted(query.keys() - _KNOWN)
    if unknown:
        known = ", ".join(sorted(_KNOWN))
        raise StoreError(f"{place!r}: unknown settings {', '.join(unknown)}; there are {known}")
    for host, _ in place.hosts:
        why = place.refusal(host)
        if why:
            raise StoreError(why)
    if "{" in place.name or "}" in place.name or not place.name:
        raise StoreError("the name of a ledger holds no braces, and is not empty")
    return place


def _place(parts: SplitResult, query: dict[str, str]) -> Place:
    scheme, plus, kind = parts.scheme.partition("+")
    way = Way(plus + kind)
    known, _, hosts = parts.netloc.rpartition("@")
    user, _, password = known.partition(":")
    path = [step for step in parts.path.split("/") if step]
    service = unquote(path.pop(0)) if way is Way.SENTINEL else ""
    db = int(path.pop(0)) if path else 0
    if scheme not in {"redis", "rediss"} or path or (way is Way.CLUSTER and db):
        raise ValueError(scheme)
    return Place(
        tuple([_address(each, way) for each in hosts.split(",")]), db,
        unquote(user) or None, _secret(query, "password_file") or unquote(password) or None,
        scheme == "rediss", query.get("ca"), query.get("cert"), query.get("key"),
        query.get("insecure") == "true", query.get("name", DEFAULT_NAME), query.get("journal"),
        _deadline_ms(query.get("deadline_ms")), way, service,
        _secret(query, "sentinel_password_file"),
    )  # fmt: skip


def _address(text: str, way: Way) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.username is not None:
        raise ValueError(text)
    return parts.hostname, parts.port or (_SENTINEL_PORT if way is Way.SENTINEL else _PORT)


def _secret(query: dict[str, str], name: str) -> str | None:
    if name not in query:
        return None
    try:
        return Path(query[name]).read_text("utf-8").strip()
    except OSError as error:
        raise StoreError(f"the file of Redis's password cannot be read: {error}") from error


def _deadline_ms(text: str | None) -> int:
    if text is None:
        return DEADLINE_MS
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= DEADLINE_MS_MAX):
        raise StoreError(f"deadline_ms in the URL of Redis is 1 to {DEADLINE_MS_MAX}")
    return int(text)


class Unreachable(Exception):
    """No answer, or none in time: what was asked may or may not have been done."""


class Refused(NamedTuple):
    """Redis refuses one command: read-only, out of memory, a missing right."""

    detail: str


class Script(NamedTuple):
    """One script with the hash under which the server keeps it."""

    text: bytes
    sha: str


def scripts() -> dict[str, Script]:
    """Read the scripts that come with the package."""
    folder = resources.files("escalade_server.stores") / "lua"
    head, window = [(folder / f"{name}.lua").read_bytes() for name in ("head", "window")]
    found = {}
    for name in SCRIPTS:
        text = head + (window if name in _WINDOWS else b"") + (folder / f"{name}.lua").read_bytes()
        found[name] = Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())
    return found


class Link:
    """One connection; used by one task at a time."""

    def __init__(self, place: Place) -> None:
        """Say where; ``connect`` does the work."""
        self._place = place
        self._scripts = scripts()
        self._meta = f"{{{place.name}}}:meta"
        self._connection: Connection | None = None
        self.identity = ""
        """Of the data that it serves: another one after a takeover or a restart."""
        self.advice = ""
        """Why the server should be renewed; empty: it need not."""

    @property
    def is_up(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    async def connect(self) -> None:
        """Connect, check the server, and give it the scripts.

        Where there are several to enter by, they are tried one after the other.

        Raises:
            Unreachable: none is there.
            StoreError: one is there, but cannot be used.
        """
        unreached: Unreachable | None = None
        for host, port in self._place.hosts:
            try:
                await self._enter(host, port)
            except Unreachable as error:
                unreached = error
            else:
                return
        raise unreached or Unreachable(f"{self._place!r} names nobody")

    async def _enter(self, host: str, port: int) -> None:
        place = self._place
        connection: Connection | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                if place.way is Way.SENTINEL:
                    host, port = await self._primary(host, port)
                connection = await self._connect(host, port)
                try:
                    await _ask(connection, "HGET", self._meta, "epoch")
                except MovedError as moved:
                    await connection.disconnect(nowait=True)
                    connection = await self._connect(moved.host, moved.port)
                await self._check(connection)
                await self._give_scripts(connection)
        except BaseException as error:
            if connection is not None:
                await connection.disconnect(nowait=True)
            if isinstance(error, ResponseError):
                raise StoreError(f"{place!r} refuses: {error}") from error
            if isinstance(error, RedisError | OSError | TimeoutError):
                raise Unreachable(f"{place!r}: {_words(error)}") from error
            raise
        self._connection = connection

    async def _connect(self, host: str, port: int) -> Connection:
        """Connect to who was named by the URL, a sentinel, or a node."""
        why = self._place.refusal(host)
        if why:
            raise StoreError(f"{why} ({host} was named by {self._place!r})")
        connection = _connection(self._place, host, port)
        await connection.connect()  # type: ignore[no-untyped-call]
        return connection

    async def _primary(self, host: str, port: int) -> tuple[str, int]:
        """Ask a sentinel which server takes writes now."""
        place = self._place
        told = place._replace(username=None, password=place.sentinel_password, db=0)
        sentinel = _connection(told, host, port)
        try:
            await sentinel.connect()  # type: ignore[no-untyped-call]
            found = await _ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", place.service)
        finally:
            await sentinel.disconnect(nowait=True)
        if not found:
            raise Unreachable(f"the sentinel {host}:{port} knows no service {place.service!r}")
        name, number = found
        return str(name, "ascii"), int(number)

    async def ping(self) -> float:
        """Time one answer, in seconds.

        Raises:
            Unreachable: there is none in time.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            if self._connection is None:
                raise ConnectionResetError("not connected")
            async with asyncio.timeout(CONNECT_S):
                await _ask(self._connection, "HGET", self._meta, "epoch")
        except (RedisError, OSError, TimeoutError) as error:
            await self.close()
            raise Unreachable(f"{self._place!r}: {_words(error)}") from error
        return loop.time() - begun

    async def _check(self, connection: Connection) -> None:
        """See that it is new enough and never forgets by itself (S11)."""
        info = _info(await _ask(connection, "INFO", "everything"))
        if info.get("loading") == "1":
            raise Unreachable(f"{self._place!r} is still reading its file")
        version = info.get("redis_version", "0")
        if version_of(version)[:2] < VERSION_MIN:
            raise StoreError(f"{self._place!r} is version {version}; 7.0 or later is needed")
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreError(
                f"{self._place!r} drops keys when its memory is full (maxmemory-policy {policy}):"
                " quotas would begin anew; set maxmemory-policy noeviction"
            )
        self.identity, self.advice = info.get("master_replid", ""), advice(info)
        if info.get("role") == "slave":
            raise Unreachable(f"{self._place!r} is a replica: nothing can be written there")

    async def run(
        self, orders: Sequence[tuple[str, bytes]], until_s: float
    ) -> list[bytes | Refused]:
        """Run scripts, in order, over one round trip; answer what each said.

        Scripts that the server has forgotten are given to it again (S12), and run from the first
        one that was missing on: each is safe to run twice.

        Args:
            orders: Names of scripts with their argument.
            until_s: The instant of the event loop at which the wait ends.

        Raises:
            Unreachable: not all were answered in time; some may have run (S9, S13).
        """
        answers: list[bytes | Refused] = []
        try:
            async with asyncio.timeout_at(until_s):
                while len(answers) < len(orders):
                    begun = len(answers)
                    answers += await self._batch(orders[begun:])
                    if len(answers) < len(orders) and self._connection is not None:
                        await self._give_scripts(self._connection)
        except (RedisError, OSError, TimeoutError) as error:
            await self.close()
            raise Unreachable(f"{self._place!r}: {_words(error)}") from error
        except BaseException:
            await self.close()
            raise
        return answers

    async def _batch(self, orders: Sequence[tuple[str, bytes]]) -> list[bytes | Refused]:
        """Send all, read all; answer those before the first that met no script."""
        connection = self._connection
        if connection is None:
            raise ConnectionResetError("not connected")
        commands = [
            ("EVALSHA", self._scripts[name].sha, 1, self._meta, argument)
            for name, argument in orders
        ]
        packed = connection.pack_commands(commands)
        await connection.send_packed_command(packed, check_health=False)
        answers: list[bytes | Refused] = []
        is_missing = False
        for _ in orders:
            try:
                answer = await connection.read_response(disable_decoding=True)
            except NoScriptError:
                is_missing = True
            except ResponseError as error:
                if not is_missing:
                    answers.append(Refused(f"{self._place!r}: {error}"))
            else:
                if not is_missing:
                    answers.append(answer)
        return answers

    async def _give_scripts(self, connection: Connection) -> None:
        """Give all in one round trip."""
        commands = [("SCRIPT", "LOAD", script.text) for script in self._scripts.values()]
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        for _ in commands:
            await connection.read_response(disable_decoding=True)

    async def close(self) -> None:
        """Drop the connection; safe twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def _connection(place: Place, host: str, port: int) -> Connection:
    if place.tls:
        return SSLConnection(
            place.key, place.cert, ssl_ca_certs=place.ca, host=host, port=port,
            db=place.db, username=place.username, password=place.password, protocol=2,
            retry=Retry(NoBackoff(), 0), driver_info=None,
        )  # fmt: skip
    return Connection(
        host=host, port=port, db=place.db, username=place.username,
        password=place.password, protocol=2, retry=Retry(NoBackoff(), 0), driver_info=None,
    )  # fmt: skip


async def _ask(connection: Connection, *command: str | bytes) -> Any:  # noqa: ANN401  # as told
    await connection.send_command(*command, check_health=False)
    return await connection.read_response(disable_decoding=True)


def _info(text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _words(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)
