"""The gRPC server of the service: limits, health, reflection, start and orderly stop.

Order of a shutdown (P4), driven by ``bootstrap``: ``drain()`` (NOT_SERVING, new calls refused) →
waiters handed over → ``stop(grace_s)`` → ``engine.drain()`` → store and telemetry.
"""

import asyncio
import ipaddress
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from escalade.v1 import operations_service_pb2, router_service_pb2
from escalade_server.api.callers import Gate, Identity
from escalade_server.api.calls import Calls
from escalade_server.api.face import Engine
from escalade_server.api.methods import MALFORMED, Called, Context, add_service
from escalade_server.api.operations_servicer import OperationsServicer, ServiceInfo
from escalade_server.api.router_servicer import RouterServicer
from escalade_server.api.status import RefusedError
from escalade_server.api.strategies import Strategies
from escalade_server.api.tls import Certificates, TlsError, TlsFiles, Told
from escalade_server.engine.background import Background
from escalade_server.engine.controls import ModelDesk
from escalade_server.engine.feed import Feed
from escalade_server.engine.mistakes import LoopMistakes
from escalade_server.engine.others import Others
from escalade_server.engine.ports import Mistakes, Tokens
from escalade_server.engine.readiness import BACKGROUND, DRAINING, Readiness
from escalade_server.engine.traces import Traces
from escalade_server.engine.usage import Reports
from escalade_server.engine.waiting import RoomLimits

_ROUTER = router_service_pb2.DESCRIPTOR.services_by_name["RouterService"]
_OPERATIONS = operations_service_pb2.DESCRIPTOR.services_by_name["OperationsService"]
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
PENDING_MAX = 6_000
"""Calls that no handler has begun yet; each costs about 15 KB, and there may be twice as many."""
HEALTH_NAMES = ("", _ROUTER.full_name, _OPERATIONS.full_name)


class BindError(Exception):
    """The server cannot listen where it was told to; the message says the mend."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where to listen, and every limit (D9). Times in seconds."""

    host: str = "127.0.0.1"
    port: int = 50051
    """0 lets the system choose."""
    auth_required: bool = False
    """Every caller must be known; else whoever shows no credential may do everything."""
    tls: TlsFiles | None = None
    """None: plaintext."""
    allow_insecure: bool = False
    """Listen beyond loopback although callers need not be known, or in plaintext (D1, D19)."""
    reflection: bool = False
    reuse_port: bool = False
    """Several worker processes share the port (P11)."""
    message_bytes_max: int = 16 * 1_048_576
    window_bytes: int = 1_048_576
    """Of one call, sent ahead of what is read."""
    calls_bytes_max: int = 256 * 1_048_576
    """Bytes of all requests in flight (P10)."""
    calls_max: int = 10_000
    streams_per_connection_max: int = 1_000
    metadata_bytes: int = 8_192
    metadata_bytes_max: int = 16_384
    keepalive_s: float = 30.0
    keepalive_timeout_s: float = 10.0
    ping_interval_min_s: float = 20.0
    """Clients that ping more often are told to go away; a little under the documented 30 s."""
    connection_age_max_s: float | None = None
    connection_age_grace_s: float = 300.0
    write_stall_s: float = 60.0
    """A reader that takes no message for this long is cut (faults C5)."""
    info: ServiceInfo = field(default_factory=ServiceInfo)


class HealthChecks:
    """``grpc.health.v1``, whose watchers can be let go: they would hold up a stop for its grace."""

    def __init__(self) -> None:
        """Start with nobody watching."""
        self.serving = health.aio.HealthServicer()
        self._watching = set[asyncio.Task[object]]()
        self._released = False

    async def Check(  # noqa: N802 - a proto name
        self, request: health_pb2.HealthCheckRequest, context: Context, _caller: Identity
    ) -> object:
        """Answer the status of a service."""
        return await self.serving.Check(request, context)

    async def Watch(  # noqa: N802 - a proto name
        self, request: health_pb2.HealthCheckRequest, context: Context, _caller: Identity
    ) -> None:
        """Stream the status of a service."""
        task = asyncio.current_task()
        assert task is not None, "handlers run in tasks"
        self._watching.add(task)
        try:
            await self.serving.Watch(request, context)
        except asyncio.CancelledError:
            if not self._released:
                raise
            context.set_code(grpc.StatusCode.UNAVAILABLE)  # a handler that raised it ends no call
            context.set_details("the server shuts down")
        finally:
            self._watching.discard(task)

    async def List(self, _request: object, context: Context, _caller: Identity) -> object:  # noqa: N802 - a proto name
        """Answer the status of every service."""
        asked = {name: health_pb2.HealthCheckRequest(service=name) for name in HEALTH_NAMES}
        statuses = {name: await self.serving.Check(one, context) for name, one in asked.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    def release(self) -> None:
        """End every watch."""
        self._released = True
        for task in self._watching:
            task.cancel()


class Reflection:
    """Describes the API to tools; the library's own answers, behind our gate."""

    def __init__(self) -> None:
        """Describe all services."""
        names = (*HEALTH_NAMES[1:], health.SERVICE_NAME, reflection.SERVICE_NAME)
        self._inner = reflection.aio.ReflectionServicer(names)

    async def ServerReflectionInfo(  # noqa: N802 - a proto name
        self, requests: AsyncIterable[object], context: Context, _caller: Identity
    ) -> None:
        """Answer each question."""
        async for answer in self._inner.ServerReflectionInfo(_whole(requests), context):
            await context.write(answer)


async def _whole(requests: AsyncIterable[object]) -> AsyncIterator[object]:
    async for request in requests:
        if request is None:
            raise RefusedError(MALFORMED)
        yield request


class ApiServer:
    """One listening gRPC server. ``start`` once; ``drain`` and ``stop`` are safe twice."""

    def __init__(
        self,
        server: aio.Server,
        calls: Calls,
        health_checks: HealthChecks,
        options: ServerOptions,
        *,
        tls_told: Told,
        mistakes: Mistakes,
    ) -> None:
        """Use ``build_server``."""
        self._server = server
        self._health = health_checks
        self._options = options
        self._tls_told = tls_told
        self.readiness = Readiness(self.set_serving)
        self.background = Background(mistakes, partial(self.readiness.set, BACKGROUND))
        """Ends with the server, which is not serving while some of it keeps dying."""
        self._stopping: asyncio.Task[None] | None = None
        self.calls = calls

    async def start(self) -> int:
        """Listen and serve; answer the port.

        Raises:
            BindError: open to other machines without protection, the port is taken, or the
                certificates cannot serve.
        """
        options = self._options
        refuse_exposed(options)
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"{host}:{options.port}"
        try:
            if options.tls is None:
                port = self._server.add_insecure_port(address)
            else:
                credentials = Certificates(options.tls, self._tls_told).credentials()
                port = self._server.add_secure_port(address, credentials)
        except TlsError as error:
            raise BindError(f"{error}") from error
        except RuntimeError:
            port = 0
        if port == 0:
            raise BindError(
                f"cannot listen on {address}: another process has the port, or this machine has no"
                " such address; choose a free port, or 0 for any"
            )
        await self._server.start()
        self.background.start(self._cut_stalled)
        await self.set_serving(serving=not self.readiness.wrong)
        return port

    async def set_serving(self, *, serving: bool) -> None:
        """Tell health checks whether calls are welcome; has no effect once draining."""
        kinds = health_pb2.HealthCheckResponse
        for name in HEALTH_NAMES:
            await self._health.serving.set(name, kinds.SERVING if serving else kinds.NOT_SERVING)

    async def drain(self) -> None:
        """Report NOT_SERVING and refuse new calls with DRAINING; running calls go on."""
        self.calls.draining = True
        await self.readiness.set(DRAINING, well=False)
        await self._health.serving.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Drain, let running calls end for up to ``grace_s``, cut the rest, and close the port.

        Called again, it waits for the first stop: grpcio crashes when it is stopped twice at once.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_s))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> None:
        await self.drain()
        stopping = asyncio.create_task(self._server.stop(grace_s))
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.calls.idle()
        self._health.release()
        await stopping
        await self.background.stop()

    async def _cut_stalled(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._options.write_stall_s / 4)
            self.calls.cut_stalled(loop.time())


def refuse_exposed(options: ServerOptions) -> None:
    """Refuse to be open to other machines without protection, unless told so explicitly.

    Raises:
        BindError: with the mend.
    """
    if options.allow_insecure or is_loopback(options.host):
        return
    reach = f"{options.host} can be reached from other machines"
    if not options.auth_required:
        raise BindError(
            f"{reach}, and callers are not authenticated: require it, listen on 127.0.0.1, or"
            " allow it explicitly with --allow-insecure"
        )
    if options.tls is None:
        raise BindError(
            f"{reach}, and prompts and tokens would travel in the clear: give --tls-cert and"
            " --tls-key, listen on 127.0.0.1, or allow it explicitly with --allow-insecure"
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    if host in ("localhost", "") or host.startswith("unix:"):
        return host != ""
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    """Write every limit for grpcio, none left to its defaults (D9, P7, P10, P11)."""
    limits = [
        ("grpc.so_reuseport", int(options.reuse_port)),
        ("grpc.max_receive_message_length", options.message_bytes_max),
        ("grpc.max_concurrent_streams", options.streams_per_connection_max),
        # Calls that no handler has begun yet. From 1,000 on grpc would draw lots and cancel them,
        # whosever they are: one connection's flood would be its neighbours' failures (C12).
        ("grpc.server.max_pending_requests", PENDING_MAX),
        ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING_MAX),
        # The window of a call is what a caller may make us hold unread. It is fixed: grown by what
        # the network carries it comes to many MiB, also of a message that will be refused (C6).
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", options.window_bytes),
        ("grpc.max_metadata_size", options.metadata_bytes),
        ("grpc.absolute_max_metadata_size", options.metadata_bytes_max),
        ("grpc.keepalive_time_ms", int(options.keepalive_s * 1_000)),
        ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout_s * 1_000)),
        # What a ping is given in fact; left alone it is a minute, whatever keepalive says (C4).
        ("grpc.http2.ping_timeout_ms", int(options.keepalive_timeout_s * 1_000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            int(options.ping_interval_min_s * 1_000),
        ),
        ("grpc.http2.max_ping_strikes", 2),
    ]
    if options.connection_age_max_s is not None:
        limits += [
            ("grpc.max_connection_age_ms", int(options.connection_age_max_s * 1_000)),
            ("grpc.max_connection_age_grace_ms", int(options.connection_age_grace_s * 1_000)),
        ]
    return limits


def build_server(
    engine: Engine,
    options: ServerOptions,
    *,
    mistakes: Mistakes | None = None,
    tokens: Tokens | None = None,
    tls_told: Told = lambda _why: None,
    feed: Feed | None = None,
    strategies: Strategies | None = None,
    reports: Reports | None = None,
    desk: ModelDesk | None = None,
    traces: Traces | None = None,
    called: Called | None = None,
    others: Others | None = None,
) -> ApiServer:
    """Wire the services onto a server that does not listen yet. Call it inside the event loop.

    ``mistakes`` takes mistakes of ours; by default the event loop's exception handler does.
    Without ``tokens`` no token opens anything. ``tls_told`` hears of renewed certificates. Without
    a ``feed`` there is nothing to watch, without ``strategies`` nothing to reload, without
    ``reports`` nothing to report, without a ``desk`` no model to set
    aside, without ``traces`` none to show.
    ``called`` hears of every call that has ended. A worker's status shows the ``others``, too.
    """
    calls = Calls(
        calls_max=options.calls_max,
        bytes_max=options.calls_bytes_max,
        stall_s=options.write_stall_s,
    )
    server = aio.server(
        options=channel_options(options),
        # A backstop without details (P10): our own refusal, with details, comes first.
        maximum_concurrent_rpcs=(
            options.calls_max + RoomLimits().waiters_max + options.streams_per_connection_max
        ),
    )
    sink = mistakes or LoopMistakes(engine.entropy)
    by_certificate = options.tls is not None and options.tls.client_ca is not None
    gate = Gate(engine, tokens, required=options.auth_required, certificates=by_certificate)
    health_checks = HealthChecks()
    services: list[tuple[ServiceDescriptor, object]] = [
        (_ROUTER, RouterServicer(engine, calls, sink)),
        (
            _OPERATIONS,
            OperationsServicer(
                engine,
                calls,
                options.info,
                feed=feed,
                stall_s=options.write_stall_s,
                strategies=strategies,
                reports=reports,
                desk=desk,
                traces=traces,
                others=others,
            ),
        ),
        (_HEALTH, health_checks),
    ]
    if options.reflection:
        services.append((_REFLECTION, Reflection()))
    for service, servicer in services:
        add_service(server, service, servicer, gate, sink, called=called)
    return ApiServer(server, calls, health_checks, options, tls_told=tls_told, mistakes=sink)
