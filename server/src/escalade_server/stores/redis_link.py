"""One connection to Redis or Valkey, and the scripts that run there.

Commands go in batches over one connection, so they are served in the order of the calls. Who waits
too long gives up, and the connection with it: an answer that comes later is never taken for that
of another command. The only file that imports the client library.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, NoScriptError, RedisError, ResponseError

from escalade_server.engine.ports import StoreError

SCRIPTS = (
    "open", "reserve", "settle", "find", "bench", "look",
    "write", "page", "tally", "days", "reports",
)  # fmt: skip
VERSION_MIN = (7, 0)
CONNECT_S = 2.0
DEFAULT_NAME = "escalade"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_KNOWN = {"name", "journal", "password_file", "insecure", "ca", "cert", "key"}


class Place(NamedTuple):
    """Where a ledger is, read from its URL."""

    host: str
    port: int
    db: int
    username: str | None
    password: str | None
    tls: bool
    ca: str | None
    cert: str | None
    key: str | None
    name: str
    """Of the ledger: several may share one server."""
    journal: str | None
    """A local file in which settlements wait while Redis is gone."""

    def __repr__(self) -> str:
        """Name the server without its password (D6)."""
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{self.host}:{self.port}/{self.db}?name={self.name}"


def place_of(url: str) -> Place:
    """Read `redis[s]://[user[:password]@]host[:port][/db][?name=...&journal=FILE&...]`.

    Without TLS only this machine is reached, unless `insecure=true` says that it is meant (D19).

    Raises:
        StoreError: it is no such URL; the message never holds the password.
    """
    try:
        parts = urlsplit(url)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        place = _place(parts, query)
    except ValueError as error:
        raise StoreError(
            "the state is no URL of a Redis: give redis[s]://[user:password@]host[:port][/db]"
        ) from error
    unknown = sorted(query.keys() - _KNOWN)
    if unknown:
        known = ", ".join(sorted(_KNOWN))
        raise StoreError(f"{place!r}: unknown settings {', '.join(unknown)}; there are {known}")
    if not place.tls and place.host not in _LOOPBACK and query.get("insecure") != "true":
        raise StoreError(
            f"{place!r} is another machine, and would be spoken to without TLS: use rediss://, or"
            " say insecure=true in the URL if the network is safe"
        )
    if "{" in place.name or "}" in place.name or not place.name:
        raise StoreError("the name of a ledger holds no braces, and is not empty")
    return place


def _place(parts: SplitResult, query: dict[str, str]) -> Place:
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname:
        raise ValueError(parts.scheme)
    password = unquote(parts.password) if parts.password else None
    if "password_file" in query:
        try:
            password = Path(query["password_file"]).read_text("utf-8").strip()
        except OSError as error:
            raise StoreError(f"the file of Redis's password cannot be read: {error}") from error
    return Place(
        parts.hostname, parts.port or 6379, int(parts.path.strip("/") or 0),
        unquote(parts.username) if parts.username else None, password, parts.scheme == "rediss",
        query.get("ca"), query.get("cert"), query.get("key"), query.get("name", DEFAULT_NAME),
        query.get("journal"),
    )  # fmt: skip


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
    head = (folder / "head.lua").read_bytes()
    found = {}
    for name in SCRIPTS:
        text = head + (folder / f"{name}.lua").read_bytes()
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

    @property
    def is_up(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    async def connect(self) -> None:
        """Connect, check the server, and give it the scripts.

        Of a cluster the node is found that has the ledger: all its keys share one slot.

        Raises:
            Unreachable: it is not there.
            StoreError: it is there, but cannot be used.
        """
        place = self._place
        connection = _connection(place, place.host, place.port)
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection.connect()  # type: ignore[no-untyped-call]
                try:
                    await _ask(connection, "HGET", self._meta, "epoch")
                except MovedError as moved:
                    await connection.disconnect(nowait=True)
                    connection = _connection(place, moved.host, moved.port)
                    await connection.connect()  # type: ignore[no-untyped-call]
                await self._check(connection)
                await self._give_scripts(connection)
        except ResponseError as error:
            await connection.disconnect(nowait=True)
            raise StoreError(f"{place!r} refuses: {error}") from error
        except (RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            raise Unreachable(f"{place!r}: {_words(error)}") from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._connection = connection

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
        if tuple(int(part) for part in version.split(".")[:2]) < VERSION_MIN:
            raise StoreError(f"{self._place!r} is version {version}; 7.0 or later is needed")
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreError(
                f"{self._place!r} drops keys when its memory is full (maxmemory-policy {policy}):"
                " quotas would begin anew; set maxmemory-policy noeviction"
            )
        self.identity = info.get("master_replid", "")
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
        for script in self._scripts.values():
            await _ask(connection, "SCRIPT", "LOAD", script.text)

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


async def _ask(connection: Connection, *command: str | bytes) -> bytes:
    await connection.send_command(*command, check_health=False)
    answer: bytes = await connection.read_response(disable_decoding=True)
    return answer


def _info(text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _words(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)
