"""The metrics of several worker processes as those of one: each series says of which it is."""

import http.client
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress

from prometheus_client import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

WORKER = "worker"
WAIT_S = 2.0
_OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("worker", timeout=WAIT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the file."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(self._path)


def fetch(path: str) -> str:
    """Read the metrics of one worker; nothing if it does not answer."""
    status, text = _get(path, "/metrics")
    return text if status == http.client.OK else ""


def wrong_with_all(paths: Iterable[str], probe: str) -> str:
    """Say what a probe (`/readyz`) finds wrong; nothing while one worker is well."""
    said = ""
    for path in paths:
        status, text = _get(path, probe)
        if status == http.client.OK:
            return ""
        said = text.strip() or said or "no worker answers"
    return said


def _get(path: str, page: str) -> tuple[int, str]:
    """Read a page of one worker; 0 if it does not answer."""
    failures = suppress(OSError, http.client.HTTPException)
    with failures, closing(_UnixConnection(path)) as connection:
        connection.request("GET", page, headers={"Accept": _OPEN_METRICS})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    return 0, ""


class Gathered(Collector):
    """A collector over the metrics of all workers."""

    def __init__(self, workers: Callable[[], Mapping[str, str]]) -> None:
        """``workers`` answers where each listens, by its number."""
        self._workers = workers

    def collect(self) -> Iterator[Family]:
        """Ask every worker, and show all series of a metric together."""
        families: dict[str, Family] = {}
        for number, path in self._workers().items():
            text = fetch(path) or "# EOF\n"
            for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
                known = families.setdefault(family.name, family)
                samples = [_of(sample, number) for sample in family.samples]
                known.samples = samples if known is family else known.samples + samples
        yield from families.values()


def _of(sample: Sample, number: str) -> Sample:
    return sample._replace(labels={**sample.labels, WORKER: number})
