"""Puts a servicer behind the one outermost guard, whatever server of grpcio's interface runs it.

The guard holds four promises for every RPC: nobody passes the gate whom the table of rights does
not let in (D1), before anything of the request is looked at; bytes that are no message of ours
are refused as INVALID_ARGUMENT (C8); a mistake of ours ends as INTERNAL with fixed words and an
opaque id, in whatever phase it happens, serialising included (P5, D8); refusals carry their
details (P6).
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from escalade.v1 import error_pb2
from escalade_server.api.callers import ACCESS, Access, Gate, Identity
from escalade_server.api.status import (
    Refusal,
    RefusedError,
    bug,
    not_built,
    status_of,
    trailers_of,
)
from escalade_server.engine.ports import Mistakes

LET_IN_S = 0.25
"""How long a caller who is refused may take for the message that it is writing."""
MALFORMED = Refusal(
    error_pb2.ERROR_REASON_REQUEST_INVALID,
    "the request is no valid message: broken bytes, or text that is not UTF-8",
)


Context = aio.ServicerContext[Any, Any]
"""grpcio's context; what it carries differs per method, and the guard never looks inside."""


Behaviour = Callable[[Any, Context, Identity], Awaitable[Any]]
"""What serves a method: the request, or the iterator of requests; the context; who calls."""


def refuse(context: Context, refusal: Refusal) -> None:
    """Set the status of a call that ends here; returning from the handler sends it."""
    status = status_of(refusal)
    context.set_code(refusal.code)
    context.set_details(status.message)
    context.set_trailing_metadata(trailers_of(refusal, status))


def add_service(
    server: aio.Server,
    service: ServiceDescriptor,
    servicer: object,
    gate: Gate,
    mistakes: Mistakes,
) -> None:
    """Register every method of a service, each behind the guard.

    Its methods get the request, the context and who calls. One that the servicer lacks is refused
    with UNIMPLEMENTED, by name (P15).
    """
    handlers = {
        method.name: _handler(
            method, getattr(servicer, method.name, None) or _unbuilt(method), gate, mistakes
        )
        for method in service.methods
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service.full_name, handlers),)
    )


def _handler(
    method: MethodDescriptor, behaviour: Behaviour, gate: Gate, mistakes: Mistakes
) -> "grpc.RpcMethodHandler[Any, Any]":
    access = ACCESS[method.full_name]  # none: it is not registered, and the server does not start
    read = _reader(GetMessageClass(method.input_type))
    write = GetMessageClass(method.output_type).SerializeToString
    if not method.server_streaming:
        unary = _unary(access, behaviour, gate, mistakes)
        return grpc.unary_unary_rpc_method_handler(unary, read)
    guarded = _stream(access, behaviour, gate, mistakes, hears=method.client_streaming)
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(guarded, read, write)
    return grpc.unary_stream_rpc_method_handler(guarded, read, write)


def _unbuilt(method: MethodDescriptor) -> Behaviour:
    async def behaviour(_request: object, _context: Context, _caller: Identity) -> None:
        raise RefusedError(not_built(f"{method.containing_service.name}.{method.name}"))

    return behaviour


def _reader(message: type[Message]) -> Callable[[bytes], Message | None]:
    def read(data: bytes) -> Message | None:
        try:
            return message.FromString(data)
        except DecodeError:
            return None

    return read


def _parsed(request: object) -> object:
    if request is None:
        raise RefusedError(MALFORMED)
    return request


async def _let_in(context: Context) -> None:
    """Let the first message of a caller arrive, unread.

    grpcio's client makes INTERNAL, without any details, of a status that meets its own writing.
    """
    with suppress(aio.BaseError, TimeoutError):
        async with asyncio.timeout(LET_IN_S):
            await context.read()


def _unary(
    access: Access, behaviour: Behaviour, gate: Gate, mistakes: Mistakes
) -> Callable[[Any, Context], Awaitable[bytes]]:
    async def call(request: object, context: Context) -> bytes:
        try:
            caller = gate.admit(access, request, context)
            answer: Message = await behaviour(_parsed(request), context, caller)
            return answer.SerializeToString()
        except aio.AbortError:
            raise  # a library's own ending, which has been sent
        except RefusedError as error:
            refuse(context, error.refusal)
        except Exception as error:  # noqa: BLE001 - the outermost catch-all (P5)
            refuse(context, bug(mistakes(error)))
        return b""

    return call


def _stream(
    access: Access, behaviour: Behaviour, gate: Gate, mistakes: Mistakes, *, hears: bool
) -> Callable[[Any, Context], Awaitable[None]]:
    async def call(request: object, context: Context) -> None:
        try:
            try:
                caller = gate.admit(access, request, context)
            except RefusedError:
                if hears:
                    await _let_in(context)
                raise
            await behaviour(_parsed(request), context, caller)
        except RefusedError as error:
            refuse(context, error.refusal)
        except Exception as error:  # noqa: BLE001 - the outermost catch-all (P5)
            refuse(context, bug(mistakes(error)))

    return call
