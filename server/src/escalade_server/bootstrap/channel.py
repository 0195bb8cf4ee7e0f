"""What the supervisor and its workers say to each other: one message a line, over a socket pair."""

import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec

from escalade_server.bootstrap.options import Options
from escalade_server.core.breaker import Breaker
from escalade_server.engine.others import Figures

LINE_BYTES_MAX = 64 << 20


class Message(msgspec.Struct, frozen=True, tag=True):
    """Anything that is said."""


class Begin(Message, frozen=True):
    """To a worker: serve. The first that it hears."""

    options: Options
    number: int
    first: bool
    """No other worker of this server has begun yet."""
    text: bytes
    """The strategy in force, whatever its file says by now."""
    started_ms: int
    """When the server was started, for its status."""


class Ready(Message, frozen=True):
    """Of a worker: it serves."""

    state: str
    ledger_is_new: bool
    nobody_known: bool
    auth_required: bool


class Failed(Message, frozen=True):
    """Of a worker: it cannot start."""

    why: str


class Circuit(Message, frozen=True):
    """Of a worker, for the others: a circuit opened, is probed, or has closed."""

    key: str
    state: Breaker


class Reload(Message, frozen=True):
    """To a worker: read the strategy again, and say so if it is in force."""

    cause: str


class Adopted(Message, frozen=True):
    """Of a worker, for the others: another strategy is in force."""

    cause: str
    text: bytes


class Follow(Message, frozen=True):
    """To a worker: read the strategy again, as another one has, and tell nobody."""

    cause: str


class Refused(Message, frozen=True):
    """Of a worker, for the others: the file as it is now was refused; no ``why``: no more."""

    count: int
    why: str
    at_ms: int


class AskFigures(Message, frozen=True):
    """Of a worker: what do the others have in flight? And to each of them: what do you have?"""

    number: int


class TellFigures(Message, frozen=True):
    """The answer: of a worker its own, to the one that asked those of all others."""

    number: int
    figures: list[Figures]


_Any = (
    Begin | Ready | Failed | Circuit | Reload | Adopted | Follow | Refused
    | AskFigures | TellFigures
)  # fmt: skip


class Channel:
    """One end. Owned by one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use ``open``."""
        self._reader, self._writer = reader, writer
        self._decoder = msgspec.json.Decoder(_Any)

    @classmethod
    async def open(cls, end: socket.socket) -> "Channel":
        """Take one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LINE_BYTES_MAX))

    def send(self, message: Message) -> None:
        """Say something; never blocks. Whoever is gone hears nothing."""
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(message) + b"\n")

    async def messages(self) -> AsyncIterator[Message]:
        """Hear what is said, until the other end is closed."""
        while line := await self._line():
            yield self._decoder.decode(line)

    async def _line(self) -> bytes:
        try:
            return await self._reader.readline()
        except OSError:
            return b""

    def close(self) -> None:
        """Say no more; what was said still arrives."""
        self._writer.close()
