"""Golden cases of every dialect: encoding, and decoding at every split of the bytes."""

import json
from pathlib import Path

import pytest

from escalade_server.core.events import ChunkArrived
from escalade_server.providers.codec import Codec, Decoder, Endpoint
from escalade_server.providers.registry import CODECS
from tests.providers.candidates import candidate
from tests.providers.golden_cases import GOLDEN, Json, decode, folders, load, merged, request

NOW_MS = 1_795_586_400_000  # Wednesday 2026-11-25, 06:00 UTC
DECODED = [folder for dialect in CODECS for folder in folders(dialect, "events.json")]
ENCODED = [folder for dialect in CODECS for folder in folders(dialect, "wire_request.json")]


def named(folder: Path) -> str:
    return f"{folder.parent.name}: {folder.name}"


def codec(folder: Path) -> Codec:
    return CODECS[folder.parent.name]


def decoder(folder: Path, expected: Json) -> Decoder:
    dialect = folder.parent.name
    return CODECS[dialect].decoder(
        candidate(expected["provider"], expected["model_id"], dialect=dialect),
        3,
        streamed=expected.get("streamed", True),
        content_type=expected.get("content_type", "text/event-stream"),
        now_ms=NOW_MS,
    )


def answer(folder: Path) -> bytes:
    (path,) = folder.glob("response.*")
    return path.read_bytes()


def wanted(expected: Json) -> Json:
    names = ("deltas", "finish", "usage", "model", "cost_nanos", "failure")
    return {name: expected[name] for name in names}


@pytest.mark.parametrize("folder", ENCODED, ids=named)
def test_a_request_is_encoded(folder: Path) -> None:
    told = load(folder / "request.json")
    endpoint = Endpoint(told["provider"], "default", told["base_url"], told["api_key"])
    chosen = candidate(told["provider"], told["model"], told["output_tokens_max"])
    wire = codec(folder).encode(request(told), chosen, endpoint)
    assert wire.streamed
    shown = {
        "method": wire.method,
        "url": wire.url,
        "headers": [list(header) for header in wire.headers],
        "body": json.loads(wire.body),
    }
    assert shown == load(folder / "wire_request.json")


@pytest.mark.parametrize("folder", DECODED, ids=named)
def test_an_answer_is_decoded(folder: Path) -> None:
    expected = load(folder / "events.json")
    events = decode(decoder(folder, expected), [answer(folder)])
    assert merged(events) == wanted(expected)
    assert all(event.attempt == 3 for event in events if isinstance(event, ChunkArrived))


@pytest.mark.parametrize("folder", DECODED, ids=named)
def test_every_split_of_an_answer_tells_the_same(folder: Path) -> None:
    expected = load(folder / "events.json")
    data = answer(folder)
    single = (data[i : i + 1] for i in range(len(data)))
    assert merged(decode(decoder(folder, expected), single)) == wanted(expected)
    for cut in range(1, len(data)):
        told = merged(decode(decoder(folder, expected), (data[:cut], data[cut:])))
        assert told == wanted(expected), cut


@pytest.mark.parametrize("folder", DECODED, ids=named)
def test_nothing_comes_after_the_end(folder: Path) -> None:
    expected = load(folder / "events.json")
    made = decoder(folder, expected)
    decode(made, [answer(folder)])
    assert made.finished
    assert made.feed(answer(folder)) is None
    assert made.close() is None


@pytest.mark.parametrize("dialect", CODECS)
def test_no_case_is_idle(dialect: str) -> None:
    encoded, decoded = folders(dialect, "wire_request.json"), folders(dialect, "events.json")
    assert {*encoded, *decoded} == set((GOLDEN / dialect).iterdir())
    assert len(encoded) > 20
    assert len(decoded) > 30
