"""How a channel to the service is made: options, credentials, keep-alive, retries."""

import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

import grpc

from escalade._errors import UsageError

MESSAGE_BYTES_MAX = 16 * 2**20  # the server's receive limit: images are inline (P10)
ANSWER_BYTES_MAX = MESSAGE_BYTES_MAX + 2**20  # an answer of that size still needs its report

SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [
                    {"service": "escalade.v1.RouterService"},
                    {"service": "escalade.v1.OperationsService"},
                ],
                # Only before the server accepted the call: its initial metadata commits it (P12).
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
)

SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")
IPV4 = re.compile(r"\d{1,3}(\.\d{1,3}){3}:\d{1,5}")
IPV6 = re.compile(r"\[[0-9a-fA-F:.]+\]:\d{1,5}")

ChannelOption = tuple[str, str | int]


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to the service; without certificates, the roots that gRPC ships decide.

    Attributes:
        root_certificates: The authorities to trust, PEM.
        private_key: The client's key, PEM, for mutual TLS.
        certificate_chain: The client's certificate, PEM.
        server_name: The name that the server's certificate must have, if not the target's.
    """

    root_certificates: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    certificate_chain: bytes | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Dial:
    """All that is needed to open a channel; `credentials` is None on plaintext."""

    target: str
    options: tuple[ChannelOption, ...]
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...] = field(repr=False)


def dial(
    target: str,
    *,
    token: str | None,
    tls: Tls | bool,
    allow_plaintext_token: bool,
    options: Sequence[ChannelOption],
) -> Dial:
    """Decide how to open the channel.

    Raises:
        UsageError: The target is empty, ``tls`` is of another kind, the token cannot be sent, or
            it would travel in the clear beyond loopback (P14).
    """
    if not isinstance(tls, Tls | bool):
        raise UsageError("tls is True, False, or Tls(root_certificates=...) with a PEM's bytes")
    target = replicas(target)
    loopback = is_loopback(target)
    metadata: tuple[tuple[str, str], ...] = ()
    if token is not None:
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError("the token is empty, or holds blanks or other signs it cannot have")
        if not tls and not loopback and not allow_plaintext_token:
            raise UsageError(
                f"the token would travel to {target} in the clear: pass tls=True, or"
                " allow_plaintext_token=True if the road is protected otherwise"
            )
        metadata = (("authorization", f"Bearer {token}"),)
    made: dict[str, str | int] = {
        "grpc.service_config": SERVICE_CONFIG,
        "grpc.enable_retries": 1,
        "grpc.max_send_message_length": MESSAGE_BYTES_MAX,
        "grpc.max_receive_message_length": ANSWER_BYTES_MAX,
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.use_local_subchannel_pool": 1,  # or equal channels share a connection (P7)
        # A server that is back after a while is found in seconds, where gRPC takes two minutes.
        "grpc.initial_reconnect_backoff_ms": 200,
        "grpc.max_reconnect_backoff_ms": 5_000,
    }
    if loopback:
        made["grpc.enable_http_proxy"] = 0  # or a proxy variable would send the call abroad
    settings = tls if isinstance(tls, Tls) else Tls()
    if settings.server_name:
        made["grpc.ssl_target_name_override"] = settings.server_name
    credentials = None
    if tls:
        credentials = grpc.ssl_channel_credentials(
            settings.root_certificates, settings.private_key, settings.certificate_chain
        )
    made.update(options)
    return Dial(target, tuple(made.items()), credentials, metadata)


def replicas(target: str) -> str:
    """Write a list of addresses as gRPC takes it; every other target is left as it is.

    Raises:
        UsageError: The target is empty, or a list of something else than addresses of one kind.
    """
    if not target:
        raise UsageError("there is no target, such as localhost:50051")
    scheme = target.partition(":")[0]
    if "," not in target or scheme in SCHEMES:
        return target
    addresses = [address.strip() for address in target.split(",")]
    for kind, form in (("ipv4", IPV4), ("ipv6", IPV6)):
        if all(form.fullmatch(address) for address in addresses):
            return f"{kind}:{','.join(addresses)}"
    raise UsageError(
        "a list of replicas holds addresses of one kind, each with its port, such as"
        " 10.0.0.1:50051,10.0.0.2:50051; the addresses of a name are found by dns:///name:50051"
    )


def is_loopback(target: str) -> bool:
    """Tell whether a gRPC target surely stays on this host; in doubt it does not."""
    scheme, _, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract"):
        return True
    if scheme == "dns" and rest:
        target = rest.removeprefix("///")  # a resolver named between the slashes is no loopback
    elif scheme in ("ipv4", "ipv6"):
        target = rest
    return all(_is_loopback_address(unquote(address)) for address in target.split(","))


def _is_loopback_address(address: str) -> bool:
    host = address
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        host = address.partition(":")[0]
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
