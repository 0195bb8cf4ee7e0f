"""A primary, its replica, and sentinels that let it take over: real processes on loopback."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.stores.servers import BEGIN_S, Server, binary, free_port

SERVICE = "books"
COUNT, QUORUM = 3, 2


class Sentinel(Server):
    """One sentinel; it writes into its own configuration file."""

    def start(self) -> None:
        file = self.folder / f"sentinel-{self.port}.conf"
        file.write_text("\n".join([*self.settings, f"port {self.port}", "bind 127.0.0.1", ""]))
        command = [binary(self.kind), str(file), "--sentinel"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.await_answer()


def _until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + BEGIN_S
    while time.monotonic() < end:
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError(what)


@contextlib.contextmanager
def watched(kind: str, folder: Path) -> Iterator[tuple[list[Server], list[Server]]]:
    """Run a primary with a replica, and sentinels that know of both and of each other."""
    primary = Server(kind, folder / "one", free_port())
    replica = Server(
        kind, folder / "two", free_port(), ("--replicaof", f"127.0.0.1 {primary.port}")
    )
    settings = (
        f"dir {folder}",
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {QUORUM}",
        f"sentinel down-after-milliseconds {SERVICE} 500",
        f"sentinel failover-timeout {SERVICE} 3000",
    )
    servers = [primary, replica]
    sentinels: list[Server] = [Sentinel(kind, folder, free_port(), settings) for _ in range(COUNT)]
    try:
        for server in servers:
            server.folder.mkdir()
            server.start()
        _until(lambda: b"master_link_status:up" in replica.say("INFO", "replication"), "no replica")
        for sentinel in sentinels:
            sentinel.start()
        wanted = f"slaves=1,sentinels={COUNT}".encode()
        _until(
            lambda: all(wanted in each.say("INFO", "sentinel") for each in sentinels),
            "the sentinels do not know each other",
        )
        yield servers, sentinels
    finally:
        for server in (*sentinels, *servers):
            server.stop()
