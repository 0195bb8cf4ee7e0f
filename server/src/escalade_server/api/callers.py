"""Who calls, and what that caller may do (D1-D3): one table of rights, one gate for every RPC.

A caller is known by a bearer token, else by its client certificate. Whatever is wrong with a
credential, the answer is the same. A bad one is refused also where none is needed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from grpc import aio

from escalade.v1 import error_pb2
from escalade_server.api.status import Refusal, RefusedError
from escalade_server.core.catalog import Agent, Catalog, Rank
from escalade_server.engine.ports import Clock, StoreError, Tokens
from escalade_server.engine.tokens import holder

UNKNOWN = Refusal(
    error_pb2.ERROR_REASON_CALLER_UNKNOWN,
    "the caller is not known: send `authorization: Bearer <token>` with a live token, or a client"
    " certificate of an agent",
)
OPERATORS_ONLY = Refusal(
    error_pb2.ERROR_REASON_ROLE_REQUIRED,
    "this method is an operator's, and the credential is an agent's",
    metadata=(("role", Rank.OPERATOR.value),),
)
UNREADABLE = Refusal(
    error_pb2.ERROR_REASON_LEDGER_UNAVAILABLE,
    "the tokens cannot be read, so that nobody can be known; an operator must look at the file",
)
BEARER = "bearer "


class Access(Enum):
    """Who may call a method."""

    PROBE = auto()
    """Anyone, for the health of the whole server, as probes need it; callers for the rest."""
    CALLER = auto()
    """Agents and operators."""
    OPERATOR = auto()


_A = Access
ACCESS: Mapping[str, Access] = {
    "escalade.v1.RouterService.Complete": _A.CALLER,
    "escalade.v1.RouterService.Route": _A.CALLER,
    "escalade.v1.RouterService.ReportOutcome": _A.CALLER,
    "escalade.v1.OperationsService.GetStatus": _A.CALLER,  # agents see their own counters only
    "escalade.v1.OperationsService.WatchEvents": _A.OPERATOR,
    "escalade.v1.OperationsService.GetUsageReport": _A.CALLER,  # agents see their own use only
    "escalade.v1.OperationsService.GetTrace": _A.CALLER,  # agents see their own tasks only
    "escalade.v1.OperationsService.SetModelState": _A.OPERATOR,
    "escalade.v1.OperationsService.ReloadStrategy": _A.OPERATOR,
    "escalade.v1.OperationsService.CheckStrategy": _A.OPERATOR,
    "grpc.health.v1.Health.Check": _A.PROBE,
    "grpc.health.v1.Health.List": _A.CALLER,
    "grpc.health.v1.Health.Watch": _A.CALLER,
    "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo": _A.OPERATOR,
}
"""Total: a method without a row cannot be registered."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls. ``own`` holds the limits of an agent that the strategy names."""

    agent: str
    rank: Rank
    own: Agent


ANYONE = Identity("", Rank.OPERATOR, Agent(""))
"""Where no credential is asked for, whoever reaches the server may do everything."""


class Context(Protocol):
    """What the gate reads of grpcio's context."""

    def invocation_metadata(self) -> "aio.Metadata | tuple[tuple[str, str | bytes], ...] | None":
        """Answer the caller's metadata."""
        ...

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Answer what the connection proves of its other end."""
        ...


class Strategy(Protocol):
    """What the gate needs of the engine."""

    @property
    def catalog(self) -> Catalog:
        """The strategy in force."""
        ...

    @property
    def clock(self) -> Clock:
        """The service's own time."""
        ...


class Gate:
    """Asked once for every RPC, before anything of its request is looked at."""

    def __init__(
        self, strategy: Strategy, tokens: Tokens | None, *, required: bool, certificates: bool
    ) -> None:
        """Say where tokens are, whether a credential is a must, and whether certificates count.

        ``certificates`` only where the server itself verifies them.
        """
        self._strategy, self._tokens = strategy, tokens
        self._required, self._certificates = required, certificates

    def admit(self, access: Access, request: object, context: Context) -> Identity:
        """Answer who calls, if that caller may call this.

        Raises:
            RefusedError: UNAUTHENTICATED or PERMISSION_DENIED.
        """
        if access is Access.PROBE and getattr(request, "service", None) == "":
            return ANYONE
        caller = self._known(context)
        if caller is None:
            if self._required:
                raise RefusedError(UNKNOWN)
            return ANYONE
        if access is Access.OPERATOR and caller.rank is not Rank.OPERATOR:
            raise RefusedError(OPERATORS_ONLY)
        return caller

    def _known(self, context: Context) -> Identity | None:
        """Answer None only for a caller who shows nothing at all."""
        texts = [
            value for key, value in context.invocation_metadata() or () if key == "authorization"
        ]
        if texts:
            return self._by_token(texts)
        return self._by_certificate(context.auth_context()) if self._certificates else None

    def _by_token(self, texts: list[str | bytes]) -> Identity:
        text = texts[0] if len(texts) == 1 else ""
        scheme, token = str(text)[: len(BEARER)], str(text)[len(BEARER) :]
        if self._tokens is None or scheme.lower() != BEARER:
            raise RefusedError(UNKNOWN)
        try:
            found = holder(token, self._tokens, self._strategy.clock.now_ms())
        except StoreError as error:
            raise RefusedError(UNREADABLE) from error
        if found is None:
            raise RefusedError(UNKNOWN)
        return self._identity(found.agent, found.rank)

    def _by_certificate(self, proven: Mapping[str, Iterable[bytes]]) -> Identity | None:
        if not proven.get("x509_subject"):
            return None
        name = certificate_name(proven)
        own = self._strategy.catalog.agents.get(name)
        return self._identity(name, Rank.AGENT if own is None else own.rank)

    def _identity(self, name: str, rank: Rank) -> Identity:
        """Look up the limits of a proven name; a strategy that lists agents means all of them."""
        agents = self._strategy.catalog.agents
        own = agents.get(name)
        if not name or (own is None and agents and rank is Rank.AGENT):
            raise RefusedError(UNKNOWN)
        return Identity(name, rank, own or Agent(name))


def certificate_name(proven: Mapping[str, Iterable[bytes]]) -> str:
    """Name the agent of a verified client certificate: its URI, else its common name.

    The whole URI, so that two trust domains never share an agent. Several URIs name nobody.
    """
    names = list(proven.get("peer_uri") or proven.get("x509_common_name") or ())
    return names[0].decode(errors="replace") if len(names) == 1 else ""
