import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import grpc
import pytest

import escalade
from escalade._channel import SERVICE_CONFIG, Dial, dial, is_loopback
from escalade.v1 import operations_service_pb2

CERTIFICATE = Path(__file__).resolve().parents[1] / "providers" / "loopback.pem"


def dialled(
    target: str = "localhost:1",
    *,
    token: str | None = None,
    tls: escalade.Tls | bool = False,
    allow_plaintext_token: bool = False,
) -> Dial:
    return dial(
        target, token=token, tls=tls, allow_plaintext_token=allow_plaintext_token, options=()
    )


@pytest.mark.parametrize(
    "target",
    [
        "localhost:50051",
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:50051",
        "127.9.9.9:1",
        "[::1]:50051",
        "::1",
        "dns:localhost:1",
        "dns:///localhost:1",
        "ipv4:127.0.0.1:1,127.0.0.2:1",
        "ipv6:[::1]:1",
        "ipv6:%5B::1%5D:1",
        "unix:relative.sock",
        "unix:///run/escalade.sock",
        "unix-abstract:name",
    ],
)
def test_what_stays_on_this_host(target: str) -> None:
    assert is_loopback(target)
    assert dialled(target, token="t").metadata == (("authorization", "Bearer t"),)


@pytest.mark.parametrize(
    "target",
    [
        "escalade:50051",
        "10.0.0.1:50051",
        "0.0.0.0:1",
        "localhost.evil.example:1",
        "127.0.0.1.nip.example:1",
        "dns:///escalade:50051",
        "dns://127.0.0.1/escalade:50051",
        "dns://evil.example/localhost:1",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "ipv6:[2001:db8::1]:1",
        "xds:///localhost:1",
        "https://localhost:1",
        "unixish:x",
    ],
)
def test_a_token_in_the_clear_stays_on_this_host(target: str) -> None:
    assert not is_loopback(target)
    with pytest.raises(escalade.UsageError, match="in the clear") as refused:
        dialled(target, token="top-secret")

    assert "top-secret" not in str(refused.value)
    assert dialled(target, token="t", tls=True).credentials is not None
    assert dialled(target, token="t", allow_plaintext_token=True).credentials is None
    assert dialled(target).metadata == ()


@pytest.mark.parametrize("token", ["", "two words", "new\nline", "ümlaut", "tab\t"])
def test_a_token_that_cannot_travel(token: str) -> None:
    with pytest.raises(escalade.UsageError) as refused:
        dialled(token=token)

    assert not token or token not in str(refused.value)


def test_a_path_is_no_tls() -> None:
    with pytest.raises(escalade.UsageError, match=r"Tls\(root_certificates"):
        dialled(tls=cast("bool", "ca.pem"))


def test_no_target() -> None:
    with pytest.raises(escalade.UsageError):
        dialled("")


def test_secrets_hide() -> None:
    tls = escalade.Tls(private_key=b"top-secret", root_certificates=b"r")

    assert "top-secret" not in repr(tls)
    assert "top-secret" not in repr(dialled(token="top-secret"))


def test_only_unavailable_is_retried() -> None:
    config = json.loads(SERVICE_CONFIG)

    assert [m["retryPolicy"]["retryableStatusCodes"] for m in config["methodConfig"]] == [
        ["UNAVAILABLE"]
    ]
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]


def test_the_user_s_options_win() -> None:
    made = dial(
        "localhost:1",
        token=None,
        tls=False,
        allow_plaintext_token=False,
        options=[("grpc.keepalive_time_ms", 5), ("mine", "x")],
    )

    options = dict(made.options)
    assert (options["grpc.keepalive_time_ms"], options["mine"]) == (5, "x")
    assert len(options) == len(made.options)
    assert options["grpc.max_send_message_length"] == 16 * 2**20


def test_tls_on_the_wire() -> None:
    pem = CERTIFICATE.read_bytes()
    key, certificate = pem.split(b"-----BEGIN CERT")
    certificate = b"-----BEGIN CERT" + certificate
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    handler = grpc.unary_unary_rpc_method_handler(
        show_token,
        operations_service_pb2.GetStatusRequest.FromString,
        operations_service_pb2.GetStatusResponse.SerializeToString,
    )
    service = "escalade.v1.OperationsService"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"GetStatus": handler}),)
    )
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    target = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    try:
        tls = escalade.Tls(root_certificates=certificate)
        with escalade.Client(target, token="t", tls=tls, timeout=10) as client:
            assert client.status().version == "Bearer t"
        assert asyncio.run(status_of(target, tls)) == "Bearer t"
        with (
            escalade.Client(target, token="t", tls=True, timeout=10) as distrustful,
            pytest.raises(escalade.Unreachable),
        ):
            distrustful.status()
    finally:
        server.stop(grace=None).wait()


def show_token(
    request: operations_service_pb2.GetStatusRequest, context: grpc.ServicerContext
) -> operations_service_pb2.GetStatusResponse:
    token = dict(context.invocation_metadata())["authorization"]
    return operations_service_pb2.GetStatusResponse(version=str(token))


async def status_of(target: str, tls: escalade.Tls) -> str:
    async with escalade.AsyncClient(target, token="t", tls=tls, timeout=10) as client:
        return (await client.status()).version
