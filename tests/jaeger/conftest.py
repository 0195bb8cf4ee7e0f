"""One Jaeger for all tests here, and an agent whose own spans go there too."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.jaeger.jaeger import Jaeger, running

AGENT_SERVICE = "the-agent"


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """Run it for the session."""
    with running(tmp_path_factory.mktemp("jaeger")) as found:
        yield found


@pytest.fixture(scope="session")
def agent(jaeger: Jaeger) -> Iterator[TracerProvider]:
    """Have this process trace as an application does; its client makes the spans by itself."""
    provider = TracerProvider(resource=Resource({"service.name": AGENT_SERVICE}))
    exporter = OTLPSpanExporter(endpoint=jaeger.otlp, insecure=True)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=100))
    trace.set_tracer_provider(provider)
    yield provider
    provider.shutdown()
