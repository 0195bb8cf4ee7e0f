"""A real Prometheus on loopback, with the shipped rules, and its query API."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
START_S, SEE_S = 60.0, 90.0
STARTS_MAX = 5


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that scrapes."""

    url: str

    def ask(self, what: str, **given: str | float) -> Any:
        """Ask its API."""
        query = urllib.parse.urlencode(given)
        try:
            with urllib.request.urlopen(  # noqa: S310 - its own http
                f"{self.url}/api/v1/{what}?{query}", timeout=30
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{given}: {error.read().decode()}") from error

    def now(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Answer a query at this instant."""
        found = self.ask("query", query=query)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def seen(self, query: str, since: float) -> list[list[float]]:
        """Answer what a query has shown since an instant, each series by itself."""
        asked = self.ask("query_range", query=query, start=since, end=time.time(), step="1s")
        return [[float(value) for _, value in one["values"]] for one in asked["result"]]


@contextmanager
def running(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run one on the shipped configuration, but for where it scrapes, and that it does so often."""
    for name in ("prometheus.yml", "rules.yml"):
        text = (DEPLOY / name).read_text()
        text = text.replace("127.0.0.1:9464", target).replace(": 15s", ": 1s")
        (folder / name).write_text(text)
    program = shutil.which("prometheus") or "prometheus"
    for _ in range(STARTS_MAX):  # the port may be taken before it listens
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = folder / "prometheus.log"
        with log.open("ab") as told:
            process = subprocess.Popen(
                [
                    program, f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}",
                    "--enable-feature=exemplar-storage",
                ],
                stderr=told, stdout=told,
            )  # fmt: skip
        try:
            if ready(process, f"http://127.0.0.1:{port}"):
                yield Prometheus(f"http://127.0.0.1:{port}")
                return
        finally:
            process.terminate()
            process.wait(20)
    raise AssertionError(log.read_text()[-2_000:])


def ready(process: "subprocess.Popen[bytes]", url: str) -> bool:
    """Wait until it is ready; False: it has ended."""
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5):  # noqa: S310 - its own http
                return True
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    return False


def wait_for(what: Callable[[], object], why: str) -> None:
    """Wait until something is seen."""
    until_s = time.monotonic() + SEE_S
    while not what():
        assert time.monotonic() < until_s, why
        time.sleep(0.2)
