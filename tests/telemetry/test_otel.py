"""OpenTelemetry's environment: what is honoured, and what is said to be not."""

import pytest

from escalade_server.telemetry.otel import Sampling, TraceSettings, settings_of

COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}


def good(**environ: str) -> TraceSettings:
    settings, notes = settings_of(COLLECTOR | environ)
    assert notes == []
    assert settings is not None
    return settings


@pytest.mark.parametrize(
    "environ",
    [
        {},
        COLLECTOR | {"OTEL_SDK_DISABLED": "True"},
        COLLECTOR | {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "  "},
    ],
)
def test_nothing_is_exported_unasked(environ: dict[str, str]) -> None:
    assert settings_of(environ) == (None, [])


def test_the_defaults_of_an_endpoint() -> None:
    settings = good()

    assert settings == TraceSettings("collector:4317")
    assert settings_of({"OTEL_TRACES_EXPORTER": "otlp"})[0] == TraceSettings("localhost:4317")


@pytest.mark.parametrize(
    ("environ", "endpoint", "secure"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:1"}, "c:1", True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:1"}, "c:1", True),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:1", "OTEL_EXPORTER_OTLP_INSECURE": "true"},
            "c:1",
            False,
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:2"}, "t:2", False),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "http://collector:4317/v1/traces",
            False,
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t/own",
            },
            "https://t/own",
            True,
        ),
    ],
)
def test_where_spans_go(environ: dict[str, str], endpoint: str, *, secure: bool) -> None:
    settings = good(**environ)

    assert (settings.endpoint, settings.secure) == (endpoint, secure)
    assert settings.is_http is endpoint.startswith("http")


def test_all_else_is_honoured_and_the_own_word_of_traces_wins() -> None:
    settings = good(
        OTEL_EXPORTER_OTLP_HEADERS="a=1",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="Api-Key=s%20ecret, b = 2",
        OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="500",
        OTEL_EXPORTER_OTLP_TIMEOUT="900",
        OTEL_EXPORTER_OTLP_CERTIFICATE="/ca",
        OTEL_SERVICE_NAME="router",
        OTEL_RESOURCE_ATTRIBUTES="service.name=other,deployment.environment.name=a%2Cb",
        OTEL_BSP_MAX_QUEUE_SIZE="10",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="5",
        OTEL_BSP_SCHEDULE_DELAY="50",
        ESCALADE_TRACES_SLOW_MS="7",
    )

    assert settings.headers == (("api-key", "s ecret"), ("b", "2"))
    assert settings.timeout_ms == 500
    assert settings.certificate == "/ca"
    assert settings.service_name == "router"
    assert settings.resource == (("deployment.environment.name", "a,b"),)
    assert (settings.queue_max, settings.batch_max) == (10, 5)
    assert (settings.delay_ms, settings.slow_ms) == (50, 7)
    assert "ecret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "arg", "sampling"),
    [
        ("", "", Sampling(2**64)),
        ("always_on", "", Sampling(2**64, heeds_caller=False)),
        ("always_off", "", Sampling(0, heeds_caller=False)),
        ("parentbased_always_off", "", Sampling(0)),
        ("traceidratio", "0.5", Sampling(2**63, heeds_caller=False)),
        ("parentbased_traceidratio", "0.25", Sampling(2**62)),
        ("parentbased_traceidratio", "", Sampling(2**64)),
    ],
)
def test_samplers(name: str, arg: str, sampling: Sampling) -> None:
    settings = good(OTEL_TRACES_SAMPLER=name, OTEL_TRACES_SAMPLER_ARG=arg)

    assert settings.sampling == sampling


def test_a_ratio_goes_by_the_last_bits_of_the_trace_id() -> None:
    half = Sampling(2**63)

    assert half.keeps("f" * 16 + "7" + "f" * 15, None)
    assert not half.keeps("0" * 16 + "8" + "0" * 15, None)
    assert half.keeps("f" * 32, sampled=True)
    assert not half.keeps("0" * 32, sampled=False)


def test_what_is_not_honoured_is_said_without_what_may_be_a_key() -> None:
    settings, notes = settings_of(
        COLLECTOR
        | {
            "OTEL_TRACES_EXPORTER": "zipkin",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
            "OTEL_TRACES_SAMPLER": "jaeger_remote",
            "OTEL_EXPORTER_OTLP_HEADERS": "canary",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_PROPAGATORS": "b3",
            "OTEL_BSP_MAX_QUEUE_SIZE": "-1",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
        }
    )

    assert settings == TraceSettings("collector:4317")
    names = [note.partition(":")[0].partition(" ")[0] for note in notes]
    assert sorted(names) == [
        "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_EXPORTER_OTLP_COMPRESSION",
        "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_PROPAGATORS", "OTEL_TRACES_EXPORTER",
        "OTEL_TRACES_SAMPLER",
    ]  # fmt: skip
    assert "canary" not in str(notes)


@pytest.mark.parametrize("told", ["2", "-0.1", "much", "nan"])
def test_a_ratio_beyond_belief_is_one(told: str) -> None:
    name = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": told}
    settings, notes = settings_of(COLLECTOR | name)

    assert settings is not None
    assert settings.sampling == Sampling(heeds_caller=False)
    assert len(notes) == 1
