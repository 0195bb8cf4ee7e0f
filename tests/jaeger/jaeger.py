"""A real Jaeger on loopback, and its query API."""

import asyncio
import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.jaeger import program

START_S, FIND_S = 60.0, 60.0
STARTS_MAX = 5
_CONFIG = """\
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines: {{traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}}}
  telemetry: {{resource: {{service.name: jaeger}}, metrics: {{level: none}}, logs: {{level: info}}}}
extensions:
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: "127.0.0.1:{query}"}}
    grpc: {{endpoint: "127.0.0.1:{query_grpc}"}}
  jaeger_storage: {{backends: {{memory: {{memory: {{max_traces: 10000}}}}}}}}
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: "127.0.0.1:{otlp_grpc}"}}
      http: {{endpoint: "127.0.0.1:{otlp_http}"}}
exporters: {{jaeger_storage_exporter: {{trace_storage: memory}}}}
"""
_PORTS = ("query", "query_grpc", "otlp_grpc", "otlp_http")


@dataclass(frozen=True, slots=True)
class Found:
    """One span as Jaeger tells it. Instants in Unix µs."""

    trace_id: str
    id: str
    parent: str
    name: str
    service: str
    start_us: int
    duration_us: int
    tags: Mapping[str, object]
    events: tuple[Mapping[str, object], ...]
    warnings: tuple[str, ...]
    """What Jaeger thinks is wrong with it; its page shows them."""

    @property
    def end_us(self) -> int:
        """When it ended."""
        return self.start_us + self.duration_us


@dataclass(frozen=True, slots=True)
class Jaeger:
    """Where it listens."""

    ports: Mapping[str, int]

    @property
    def otlp(self) -> str:
        """The endpoint of OTLP over gRPC."""
        return f"http://127.0.0.1:{self.ports['otlp_grpc']}"

    @property
    def otlp_http(self) -> str:
        """The same over HTTP."""
        return f"http://127.0.0.1:{self.ports['otlp_http']}"

    def text(self, path: str, **query: str) -> str:
        """Ask the query API; a trace that is not there is an empty answer."""
        url = f"http://127.0.0.1:{self.ports['query']}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return '{"data": []}'

    def trace(self, trace_id: str) -> list[Found]:
        """Read one trace, in the order of beginnings."""
        return _spans(json.loads(self.text(f"/api/traces/{trace_id}"))["data"])

    def tagged(self, service: str, **tags: str) -> list[Found]:
        """Find the spans of every trace with a span of a service that has these tags."""
        query = {"service": service, "tags": json.dumps(tags), "lookback": "1h", "limit": "500"}
        return _spans(json.loads(self.text("/api/traces", **query))["data"])

    async def until(
        self, read: Callable[[], list[Found]], enough: Callable[[list[Found]], bool]
    ) -> list[Found]:
        """Read again until it is enough."""
        async with asyncio.timeout(FIND_S):
            while not enough(found := await asyncio.to_thread(read)):  # noqa: ASYNC110 - a process
                await asyncio.sleep(0.1)
        return found


def _spans(traces: list[dict[str, Any]]) -> list[Found]:
    found = []
    for trace in traces:
        services = {key: made["serviceName"] for key, made in trace["processes"].items()}
        for span in trace["spans"]:
            parents = [r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"]
            events = tuple(
                {"at_us": log["timestamp"]} | {f["key"]: f["value"] for f in log["fields"]}
                for log in span["logs"] or ()
            )
            found.append(
                Found(
                    span["traceID"], span["spanID"], (parents or [""])[0], span["operationName"],
                    services[span["processID"]], span["startTime"], span["duration"],
                    {tag["key"]: tag["value"] for tag in span["tags"]}, events,
                    tuple(span.get("warnings") or ()),
                )
            )  # fmt: skip
    return sorted(found, key=lambda span: (span.start_us, -span.duration_us))


@contextmanager
def running(folder: Path) -> Iterator[Jaeger]:
    """Start it on ports that are free, and wait until it answers."""
    for _ in range(STARTS_MAX):
        found = Jaeger(_free_ports())
        config = folder / "jaeger.yaml"
        config.write_text(_CONFIG.format(**found.ports))
        with (folder / "jaeger.log").open("wb") as log:
            command = [str(program()), "--config", str(config)]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            if _answers(process, found):
                yield found
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError((folder / "jaeger.log").read_text()[-4_000:])


def _answers(process: "subprocess.Popen[bytes]", jaeger: Jaeger) -> bool:
    """Wait for it; False if it died, as it does when a port was taken meanwhile."""
    ends_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < ends_s:
        try:
            jaeger.text("/api/services")
            socket.create_connection(("127.0.0.1", jaeger.ports["otlp_grpc"]), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def _free_ports() -> dict[str, int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in _PORTS]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return dict(zip(_PORTS, ports, strict=True))
