"""The fuzz targets on their seeds and corpus, without a fuzzer; and ours against the standard."""

from argparse import Namespace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from escalade_server.providers.sse import SseDecoder
from tests.fuzz import one, whatwg, wire
from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS, inputs

NAMES = list(TARGETS)
# Half of a stream is made of what the standard speaks of, so that it is spoken of often.
WORDS = ["data", "event", "id", ":", " ", "\n", "\r", "\r\n", "\n\n", "data: ", "\ufeff", "\u2028"]
BYTES = [b"\xe2\x80", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"\xf4\x90", b"\xff", b"\0"]
PIECES = st.sampled_from([*(word.encode() for word in WORDS), *BYTES]) | st.binary(max_size=6)
STREAMS = st.lists(PIECES, max_size=40).map(b"".join)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_holds_on_its_seeds(name: str) -> None:
    seeds = list(SEEDS[name]())
    assert seeds
    for seed in seeds:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_holds_on_its_corpus(name: str) -> None:
    corpus = inputs(name)
    assert corpus
    for file in corpus:
        TARGETS[name](file.read_bytes())


@given(STREAMS)
@example(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n")
@example(b"data: \xf0\x9f\ndata: \xe2\r\n\r")
@pytest.mark.fault("U16", "U17", "U18")
def test_our_events_are_those_of_the_standard(stream: bytes) -> None:
    wire.sse(stream)


@given(st.binary(max_size=40))
def test_the_reference_reads_utf_8_as_python_does(data: bytes) -> None:
    assert "".join(whatwg.utf8(data)) == data.decode(errors="replace")


class Forgetful(SseDecoder):
    """Wrong only where an event is cut inside."""

    def feed(self, chunk: bytes) -> list[bytes]:
        if len(chunk) == 1:
            self._data.clear()
        return super().feed(chunk)


def test_a_target_finds_a_planted_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    wire.sse(b"data: a\n\n")
    monkeypatch.setattr(wire, "SseDecoder", Forgetful)
    with pytest.raises(AssertionError):
        wire.sse(b"data: a\n\n")


def test_every_target_has_its_number_of_runs() -> None:
    assert one.RUNS.keys() == TARGETS.keys()


@pytest.mark.parametrize("seed", [0, 7])
def test_a_run_with_a_seed_is_counted_and_reads_nothing_by_the_clock(
    tmp_path: Path, seed: int
) -> None:
    given = Namespace(
        target="parse", work=tmp_path, seed=seed, times=3, seconds=9, merge=False, files=[]
    )
    told = one.prepare(given)
    counted = {f"-seed={seed}", f"-runs={3 * one.RUNS['parse']}", "-reload=0"}
    assert counted <= {*told} if seed else not counted & {*told}
    assert "-max_total_time=9" in told
    # Of folders, whose order is the machine's, only the new one, which is empty.
    assert sum(Path(word).is_dir() for word in told) == (1 if seed else 3)
