"""Puts a servicer behind the one outermost guard, whatever server of grpcio's interface runs it.

The guard holds four promises for every RPC: nobody passes the gate whom the table of rights does
not let in (D1), before anything of the request is looked at; bytes that are no message of ours
are refused as INVALID_ARGUMENT (C8); a mistake of ours ends as INTERNAL with fixed words and an
opaque id, in whatever phase it happens, serialising included (P5, D8); refusals carry their
details (P6).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

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

T = TypeVar("T")
CODES: Mapping[object, str] = MappingProxyType(
    {key: code.name for code in grpc.StatusCode for key in (code, code.value[0])} | {None: "OK"}
)
"""Names of codes, however grpcio gives them."""
LARGE_BYTES = 65_536
"""A request from here on is read in a turn of its own: fifty at once would stop the loop."""
LET_IN_S = 0.25
"""How long a caller who is refused may take for the message that it is writing."""
MALFORMED = Refusal(
    error_pb2.ERROR_REASON_REQUEST_INVALID,
    "the request is no valid message: broken bytes, or text that is not UTF-8",
)


ENDINGS = (Exception, asyncio.CancelledError, GeneratorExit, SystemExit)
"""However a handler may end but by an interrupt. Nothing may be awaited after ``GeneratorExit``."""
Context = aio.ServicerContext[Any, Any]
"""grpcio's context; what it carries differs per method, and the guard never looks inside."""


Called = Callable[[str, str, float], None]
"""Hears the full name of a method, the name of the status it ended with, and its seconds."""
Behaviour = Callable[[Any, Context, Identity], Awaitable[Any]]
"""What serves a method: the request, or the iterator of requests; the context; who calls."""


def refuse(context: Context, refusal: Refusal) -> None:
    """Set the status of a call that ends here; returning from the handler sends it."""
    status = status_of(refusal)
    context.set_code(refusal.code)
    context.set_details(status.message)
    context.set_trailing_metadata(trailers_of(refusal, status))


class StrayError(Exception):
    """A handler met what is meant for a task or the process, not for a call."""


def as_mistake(error: BaseException) -> Exception:
    """Take any ending for a mistake, which ends one call and nothing else (X8).

    A cancellation that the transport asked for is none, and is raised again: a handler that
    answers it holds up the server, and one that merely raises another never ends its call.
    """
    if isinstance(error, Exception):
        return error
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
    return StrayError(type(error).__name__).with_traceback(error.__traceback__)


class Large(NamedTuple):
    """A request that is not read yet; read, it takes many times its bytes."""

    message: type[Message]
    data: bytes


def add_service(
    server: aio.Server,
    service: ServiceDescriptor,
    servicer: object,
    gate: Gate,
    mistakes: Mistakes,
    *,
    called: Called | None = None,
) -> None:
    """Register every method of a service, each behind the guard; ``called`` hears of every call.

    Its methods get the request, the context and who calls. One that the servicer lacks is refused
    with UNIMPLEMENTED, by name (P15).
    """
    turn = asyncio.Lock()
    handlers = {
        method.name: _handler(
            method,
            getattr(servicer, method.name, None) or _unbuilt(method),
            gate,
            mistakes,
            turn,
            called=called,
        )
        for method in service.methods
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service.full_name, handlers),)
    )


def _handler(
    method: MethodDescriptor,
    behaviour: Behaviour,
    gate: Gate,
    mistakes: Mistakes,
    turn: asyncio.Lock,
    *,
    called: Called | None,
) -> "grpc.RpcMethodHandler[Any, Any]":
    access = ACCESS[method.full_name]  # none: it is not registered, and the server does not start
    message = GetMessageClass(method.input_type)
    read = partial(_read_now if method.client_streaming else _read, message)
    write = GetMessageClass(method.output_type).SerializeToString
    if not method.server_streaming:
        unary = _timed(method, _unary(access, behaviour, gate, mistakes, turn), called)
        return grpc.unary_unary_rpc_method_handler(unary, read)
    hears = method.client_streaming
    stream = _stream(access, behaviour, gate, mistakes, turn, hears=hears)
    guarded = _timed(method, stream, called)
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(guarded, read, write)
    return grpc.unary_stream_rpc_method_handler(guarded, read, write)


def _timed(
    method: MethodDescriptor,
    behaviour: Callable[[Any, Context], Awaitable[T]],
    called: Called | None,
) -> Callable[[Any, Context], Awaitable[T]]:
    if called is None:
        return behaviour
    name = f"{method.containing_service.full_name}/{method.name}"

    async def call(request: object, context: Context) -> T:
        clock = asyncio.get_running_loop().time
        begun, status = clock(), "CANCELLED"  # by the transport, unless it ends by itself
        try:
            answer = await behaviour(request, context)
            status = CODES.get(context.code(), "UNKNOWN")
            return answer
        finally:
            called(name, status, clock() - begun)

    return call


def _unbuilt(method: MethodDescriptor) -> Behaviour:
    async def behaviour(_request: object, _context: Context, _caller: Identity) -> None:
        raise RefusedError(not_built(f"{method.containing_service.name}.{method.name}"))

    return behaviour


def _read_now(message: type[Message], data: bytes) -> Message | None:
    try:
        return message.FromString(data)
    except DecodeError:
        return None


def _read(message: type[Message], data: bytes) -> Message | Large | None:
    return _read_now(message, data) if len(data) < LARGE_BYTES else Large(message, data)


async def _parsed(request: object, turn: asyncio.Lock) -> object:
    if isinstance(request, Large):
        async with turn:
            await asyncio.sleep(0)
        request = _read_now(request.message, request.data)
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
    access: Access, behaviour: Behaviour, gate: Gate, mistakes: Mistakes, turn: asyncio.Lock
) -> Callable[[Any, Context], Awaitable[bytes]]:
    async def call(request: object, context: Context) -> bytes:
        try:
            caller = gate.admit(access, request, context)
            request = await _parsed(request, turn)
            answer: Message = await behaviour(request, context, caller)
            return answer.SerializeToString()
        except aio.AbortError:
            raise  # a library's own ending, which has been sent
        except RefusedError as error:
            refuse(context, error.refusal)
        except ENDINGS as error:  # the outermost catch-all (P5)
            refuse(context, bug(mistakes(as_mistake(error))))
        return b""

    return call


def _stream(
    access: Access,
    behaviour: Behaviour,
    gate: Gate,
    mistakes: Mistakes,
    turn: asyncio.Lock,
    *,
    hears: bool,
) -> Callable[[Any, Context], Awaitable[None]]:
    async def call(request: object, context: Context) -> None:
        try:
            try:
                caller = gate.admit(access, request, context)
            except RefusedError:
                if hears:
                    await _let_in(context)
                raise
            request = await _parsed(request, turn)
            await behaviour(request, context, caller)
        except RefusedError as error:
            refuse(context, error.refusal)
        except ENDINGS as error:  # the outermost catch-all (P5)
            refuse(context, bug(mistakes(as_mistake(error))))

    return call
