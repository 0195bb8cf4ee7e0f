"""Spans on their way out, as OpenTelemetry's environment says; without it, none."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from types import MappingProxyType
from urllib.parse import urlsplit

from escalade_server.api.convert_out import ERROR_REASONS
from escalade_server.api.status import STATUS
from escalade_server.bootstrap.options import StartError
from escalade_server.bootstrap.process import version
from escalade_server.core.catalog import Model
from escalade_server.core.facts import ErrorReason
from escalade_server.engine.entropy import SystemEntropy
from escalade_server.engine.ports import Clock, Poster
from escalade_server.engine.traces import TraceStore
from escalade_server.strategy.load import Loaded
from escalade_server.telemetry import conventions, names
from escalade_server.telemetry.attributes import Surroundings
from escalade_server.telemetry.export import Send, SpanExporter
from escalade_server.telemetry.journey import Journey, Journeys
from escalade_server.telemetry.keeper import TraceKeeper
from escalade_server.telemetry.logs import Log
from escalade_server.telemetry.otel import TraceSettings, settings_of
from escalade_server.telemetry.otlp import Packer
from escalade_server.telemetry.tracer import Tracer
from escalade_server.telemetry.wires import channel_of, over_grpc, over_http

FLUSH_S = 2.0
"""How long the end of the process waits for the last spans."""
_PORTS = MappingProxyType({"http": 80, "https": 443})


class Tracing:
    """What watches tasks for their spans, and what sends these."""

    def __init__(self, tracer: Tracer, exporter: SpanExporter) -> None:
        """Use ``tracing_of``."""
        self.tracer, self.exporter = tracer, exporter


def tracing_of(
    environ: Mapping[str, str],
    log: Log,
    stack: AsyncExitStack,
    poster: Poster,
    around: Surroundings,
) -> Tracing | None:
    """Build it, if the environment asks for it; ``stack`` sends the last spans at the end.

    Raises:
        StartError: a certificate that the environment names cannot be read.
    """
    settings, notes = settings_of(environ)
    if notes:
        log.warning(names.TRACES_SETTING, detail="; ".join(notes))
    if settings is None:
        return None
    packer = Packer(_resource(settings), version())
    exporter = SpanExporter(
        _wire(settings, poster, stack), packer, log, queue_max=settings.queue_max,
        batch_max=settings.batch_max, delay_ms=settings.delay_ms,
    )  # fmt: skip
    stack.push_async_callback(exporter.flush, FLUSH_S)
    if settings.capture.agents:
        log.warning(names.TRACES_CONTENT, agents=sorted(settings.capture.agents))
    around = replace(around, capture=settings.capture)
    tracer = Tracer(exporter, settings.sampling, around, log, slow_ms=settings.slow_ms)
    log.info(names.TRACES_EXPORTED, endpoint=_shown(settings))
    return Tracing(tracer, exporter)


def journeys_of(
    tracing: Tracing | None, store: TraceStore, around: Surroundings, clock: Clock, log: Log
) -> tuple[Journeys, TraceKeeper]:
    """Make what notes how tasks go, for the exporter and for those who ask afterwards."""
    running: dict[str, Journey] = {}
    kept = TraceKeeper(store, around, clock, log, running)
    return Journeys((kept,) if tracing is None else (kept, tracing.tracer), running), kept


def surroundings_of(loaded: Callable[[], Loaded], redact: Callable[[str], str]) -> Surroundings:
    """Tell spans what ``api`` and the strategy in force know, and which words are secrets."""

    def address_of(model: Model) -> tuple[str, int] | None:
        endpoint = loaded().endpoints.get((model.provider, model.account))
        if endpoint is None:
            return None
        parts = urlsplit(endpoint.base_url)
        if parts.hostname is None:
            return None
        return parts.hostname, parts.port or _PORTS.get(parts.scheme, 443)

    return Surroundings(status_of, address_of, redact)


def status_of(reason: ErrorReason) -> str:
    """Name the gRPC status of a failure."""
    return STATUS[ERROR_REASONS[reason]].name


def _wire(settings: TraceSettings, poster: Poster, stack: AsyncExitStack) -> Send:
    if settings.is_http:
        return over_http(poster, settings)
    try:
        channel = channel_of(settings)
    except OSError as error:
        raise StartError(f"OTEL_EXPORTER_OTLP_CERTIFICATE and its like: {error}") from error
    stack.push_async_callback(channel.close)
    return over_grpc(channel, settings)


def _resource(settings: TraceSettings) -> list[tuple[str, str]]:
    own = {
        conventions.SERVICE_NAME: settings.service_name,
        conventions.SERVICE_VERSION: version(),
        conventions.SERVICE_INSTANCE: SystemEntropy.key_id(),
    }
    return list((own | dict(settings.resource)).items())


def _shown(settings: TraceSettings) -> str:
    """The endpoint without what may be a password in it."""
    return settings.endpoint.rpartition("@")[2]
