"""OpenTelemetry's standard environment, as far as traces go; what is not honoured is said."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from escalade_server.telemetry.content import CHARS, NO_CAPTURE, Capture

_EXPORTERS = ("otlp", "none")
_GRPC, _HTTP = "grpc", "http/protobuf"
_RATIO_ONE = 2**64
_TRUE = "true"
_AGENTS = "ESCALADE_TRACES_CONTENT_AGENTS"
_IGNORED = (
    "OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_PROPAGATORS", "OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER",
)  # fmt: skip
"""Known to OpenTelemetry, and without effect here."""
_EFFECTLESS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "OTEL_PROPAGATORS": ("tracecontext", "tracecontext,baggage"),
        "OTEL_METRICS_EXPORTER": ("none", "prometheus"),
        "OTEL_LOGS_EXPORTER": ("none",),
        "OTEL_EXPORTER_OTLP_COMPRESSION": ("none",),
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": ("none",),
    }
)
"""Values that ask for nothing but what is done anyway."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which uneventful tasks are exported; eventful ones always are."""

    bound: int = _RATIO_ONE
    """Of the trace id's last 64 bits, as every sampler by ratio has it: 2**64 keeps all."""
    heeds_caller: bool = True
    """A caller's flag decides in place of the ratio."""

    def keeps(self, trace_id: str, sampled: bool | None) -> bool:  # noqa: FBT001 - the caller's flag
        """Tell it of one trace; ``sampled`` None: no caller says."""
        if self.heeds_caller and sampled is not None:
            return sampled
        return bool(self.bound) and int(trace_id[16:], 16) < self.bound


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Where spans go, and how. No repr of the headers: they may hold a key."""

    endpoint: str
    """Of gRPC ``host:port``, else the whole URL."""
    is_http: bool = False
    secure: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    certificate: str = ""
    """File with the authorities to trust; empty: the system's."""
    client_certificate: str = ""
    client_key: str = ""
    timeout_ms: int = 10_000
    service_name: str = "escalade"
    resource: tuple[tuple[str, str], ...] = ()
    sampling: Sampling = Sampling()
    queue_max: int = 2_048
    batch_max: int = 512
    delay_ms: int = 1_000
    slow_ms: int = 30_000
    """A task that takes as long is eventful (``ESCALADE_TRACES_SLOW_MS``)."""
    capture: Capture = NO_CAPTURE
    """``ESCALADE_TRACES_CONTENT_AGENTS``, names or ``*``; ``ESCALADE_TRACES_CONTENT_CHARS``."""


class _Reader:
    """Reads variables, and takes down what is not understood; an empty one counts as absent."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.notes: list[str] = []

    def text(self, *names: str) -> str:
        """Answer the first that is set."""
        return next((found for name in names if (found := self._environ.get(name, "").strip())), "")

    def chosen(self, default: str, allowed: tuple[str, ...], *names: str) -> str:
        value = self.text(*names)
        if not value or value in allowed:
            return value or default
        self.notes.append(f"{names[-1]}: {value!r} is none of {', '.join(allowed)}: {default}")
        return default

    def number(self, default: int, *names: str) -> int:
        value = self.text(*names)
        if not value:
            return default
        if value.isdecimal() and 0 < int(value) < 2**31:
            return int(value)
        self.notes.append(f"{names[-1]}: {value!r} is no positive whole number: {default}")
        return default

    def pairs(self, *names: str) -> Iterator[tuple[str, str]]:
        """Answer the ``key=value`` pairs of a list; keys and values may be percent-encoded."""
        for each in filter(None, map(str.strip, self.text(*names).split(","))):
            key, mark, value = each.partition("=")
            if mark and key.strip():
                yield unquote(key.strip()), unquote(value.strip())
            else:  # whatever it is, it may be a key
                self.notes.append(f"{names[-1]}: an entry without '=' is left out")


def settings_of(environ: Mapping[str, str]) -> tuple[TraceSettings | None, list[str]]:
    """Read the environment; None: nothing is exported. The notes say what is not honoured.

    Spans are exported where an endpoint or the exporter ``otlp`` is named: a laptop without a
    collector is left in peace.
    """
    read = _Reader(environ)
    named = read.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = read.chosen("otlp" if named else "none", _EXPORTERS, "OTEL_TRACES_EXPORTER")
    if read.text("OTEL_SDK_DISABLED").lower() == _TRUE or exporter == "none":
        return None, read.notes
    for name in _IGNORED:
        value = read.text(name)
        if value and value not in _EFFECTLESS.get(name, ()):
            read.notes.append(f"{name} has no effect here")
    return _settings(read, named), read.notes


def _settings(read: _Reader, named: str) -> TraceSettings:
    either = "OTEL_EXPORTER_OTLP_TRACES_{0} OTEL_EXPORTER_OTLP_{0}".format
    protocol = read.chosen(_GRPC, (_GRPC, _HTTP), *either("PROTOCOL").split())
    is_http = protocol == _HTTP
    endpoint = named or ("http://localhost:4318" if is_http else "http://localhost:4317")
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    secure = parts.scheme == "https"
    if not parts.scheme:
        secure = read.text(*either("INSECURE").split()).lower() != _TRUE
    if is_http:
        if not parts.scheme:
            endpoint = f"{'https' if secure else 'http'}://{endpoint}"
        if not read.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
            endpoint = f"{endpoint.rstrip('/')}/v1/traces"
    else:
        endpoint = parts.netloc
    about = dict(read.pairs("OTEL_RESOURCE_ATTRIBUTES"))
    name = read.text("OTEL_SERVICE_NAME") or about.pop("service.name", "escalade")
    about.pop("service.name", None)
    return TraceSettings(
        endpoint,
        is_http=is_http,
        secure=secure,
        headers=tuple(
            (key.lower(), value) for key, value in read.pairs(*either("HEADERS").split())
        ),
        certificate=read.text(*either("CERTIFICATE").split()),
        client_certificate=read.text(*either("CLIENT_CERTIFICATE").split()),
        client_key=read.text(*either("CLIENT_KEY").split()),
        timeout_ms=read.number(10_000, *either("TIMEOUT").split()),
        service_name=name,
        resource=tuple(about.items()),
        sampling=_sampling(read),
        queue_max=read.number(2_048, "OTEL_BSP_MAX_QUEUE_SIZE"),
        batch_max=read.number(512, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
        delay_ms=read.number(1_000, "OTEL_BSP_SCHEDULE_DELAY"),
        slow_ms=read.number(30_000, "ESCALADE_TRACES_SLOW_MS"),
        capture=Capture(
            frozenset(filter(None, map(str.strip, read.text(_AGENTS).split(",")))),
            read.number(CHARS, "ESCALADE_TRACES_CONTENT_CHARS"),
        ),
    )


def _sampling(read: _Reader) -> Sampling:
    kinds = ("always_on", "always_off", "traceidratio")
    allowed = (*(f"parentbased_{kind}" for kind in kinds), *kinds)
    name = read.chosen("parentbased_always_on", allowed, "OTEL_TRACES_SAMPLER")
    kind = name.removeprefix("parentbased_")
    ratio = 0.0 if kind == "always_off" else 1.0
    told = read.text("OTEL_TRACES_SAMPLER_ARG")
    if kind == "traceidratio" and told:
        try:
            ratio = float(told)
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio <= 1:
            read.notes.append(f"OTEL_TRACES_SAMPLER_ARG: {told!r} is no ratio from 0 to 1: 1")
            ratio = 1.0
    return Sampling(round(ratio * _RATIO_ONE), heeds_caller=name != kind)
