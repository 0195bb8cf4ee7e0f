"""Target: what callers send. Bytes of a request, through the edge and into every dialect."""

import json

from google.protobuf.message import DecodeError

from escalade.v1.router_service_pb2 import CompleteRequest
from escalade_server.api.convert_in import request_from_proto
from escalade_server.api.status import (
    DETAILS_BYTES_MAX,
    RefusedError,
    status_of,
    trailers_of,
)
from escalade_server.core.failure import FailureClass
from escalade_server.core.task import Request
from escalade_server.engine.ports import ProviderFailure
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.registry import CODECS
from escalade_server.strategy.load import loads
from tests.fuzz.pieces import NOW_MS, said_to_people
from tests.fuzz.wire import MODELS
from tests.providers.candidates import candidate

KEY = "sk-never-to-be-shown-0123456789"
OUTPUT_TOKENS_MAX = 4_095
TRAILER_BYTES_MAX = 8_000
LIMIT = f":{OUTPUT_TOKENS_MAX}".encode()
CATALOG = loads(
    "fallback_strategy: {layers: [{name: free, priority: 1, models: "
    "[{provider: openai, model: gpt-4o-mini, rate_limit: 50/day}]}]}",
    environ={},
    assume_keys=True,
).catalog


def requests(data: bytes) -> None:
    """A request is refused with details that fit, or has one safe form in each dialect."""
    try:
        wire = CompleteRequest.FromString(data)
    except DecodeError:
        return
    try:
        asked = request_from_proto(wire, CATALOG, request_id="made", now_ms=NOW_MS, left_ms=60_000)
    except RefusedError as error:
        status = status_of(error.refusal)
        trailers = trailers_of(error.refusal, status)
        assert sum(len(key) + len(value) for key, value in trailers) < TRAILER_BYTES_MAX
        assert status.ByteSize() <= DETAILS_BYTES_MAX
        return
    for dialect, models in MODELS.items():
        for provider, wire_id in models:
            encoded(asked.request, dialect, provider, wire_id)


def encoded(request: Request, dialect: str, provider: str, wire_id: str) -> None:
    """Hold what goes out, or why nothing does."""
    endpoint = Endpoint(provider, "default", "https://api.example.test/v1", KEY)
    asked = candidate(provider, wire_id, OUTPUT_TOKENS_MAX, dialect=dialect)
    try:
        wire = CODECS[dialect].encode(request, asked, endpoint)
    except ProviderFailure as error:
        assert error.failure.cls is FailureClass.BAD_REQUEST
        assert not error.failure.sent
        said_to_people(error.failure.detail, 400)
        return
    assert isinstance(json.loads(wire.body), dict)
    assert LIMIT in wire.body, "the output bound is always sent (R13)"
    assert KEY.encode() not in wire.body
    assert KEY not in wire.url
    assert wire.url.isascii()
    assert wire.url.isprintable()
    for name, value in wire.headers:
        assert name.isascii()
        assert f"{name}{value}".isprintable(), "nothing ends a header early (C14)"
