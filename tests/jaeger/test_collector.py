"""The shipped collector's way of spans, run by a real collector: the one inside Jaeger.

It has no receiver of metrics; that half of the file is looked at by tests/telemetry/test_deploy.py.
"""

import os
import socket
import subprocess
import time
from pathlib import Path

import yaml
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.jaeger.jaeger import STARTS_MAX, Jaeger
from tools.jaeger import program

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "collector" / "config.yaml"
START_S = 60.0


def traces_half() -> str:
    config = yaml.safe_load(CONFIG.read_text())
    del config["service"]["pipelines"]["metrics"]
    del config["receivers"]["prometheus"]
    del config["exporters"]["otlp/metrics"]
    return str(yaml.safe_dump(config))


def listens(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Wait until it listens; False: it has ended."""
    until_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until_s:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def collector(folder: Path, jaeger: Jaeger) -> "tuple[subprocess.Popen[bytes], int]":
    """Start it before a Jaeger, on a port that is free."""
    (folder / "config.yaml").write_text(traces_half())
    command = [str(program()), "--config", str(folder / "config.yaml")]
    told = jaeger.otlp.removeprefix("http://")
    for _ in range(STARTS_MAX):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environ = os.environ | {"OTLP_LISTEN": f"127.0.0.1:{port}", "JAEGER_OTLP": told}
        with (folder / "collector.txt").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
        if listens(process, port):
            return process, port
        process.kill()
        process.wait()
    raise AssertionError((folder / "collector.txt").read_text()[-4_000:])


async def test_a_span_goes_through_the_shipped_collector(jaeger: Jaeger, tmp_path: Path) -> None:
    process, port = collector(tmp_path, jaeger)
    try:
        provider = TracerProvider(resource=Resource({"service.name": "through-the-collector"}))
        exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{port}", insecure=True)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        with provider.get_tracer("test").start_as_current_span("passed on") as span:
            trace = f"{span.get_span_context().trace_id:032x}"
        provider.shutdown()
        found = await jaeger.until(lambda: jaeger.trace(trace), bool)
    finally:
        process.kill()
        process.wait()
    assert [(one.name, one.service) for one in found] == [("passed on", "through-the-collector")]
