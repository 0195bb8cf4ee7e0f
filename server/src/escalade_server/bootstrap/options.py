"""What a server is told, and how it says that it cannot start."""

from dataclasses import dataclass
from typing import Literal

from escalade_server.api.tls import TlsFiles
from escalade_server.telemetry.logs import Format, Level

Authentication = Literal["auto", "required", "optional"]
"""Auto: required once there is anybody to know, or anybody else to reach the server."""

DEFAULT_STATE = "escalade.sqlite3"


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
    recover: bool = False
    """Save first what can be read of a damaged ledger; the old file is kept aside."""
    reflection: bool = False
    metrics: str | None = None
    """Where to serve metrics and probes: ``HOST:PORT``, ``PORT`` on loopback, or ``unix:PATH``."""
    grace_s: float = 30.0
    log_format: Format | None = None
    """None: text on a terminal, else JSON."""
    log_level: Level = "info"
