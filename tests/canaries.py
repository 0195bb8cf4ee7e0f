"""Nothing of a prompt, an answer, a key or a token gets into what watches a server (A19, D6, D7).

In every test of the suite whatever is written to a log (every line of level debug included), to a
span, to the metrics, to the event feed and into an error of the SDK is read over: none of it may
hold what the suite uses for keys and tokens, for prompts, and for answers. Processes that a test
starts write their logs into its folder; these are read, too.
"""

import re
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

import escalade
from escalade_server.engine.feed import Feed
from escalade_server.telemetry import logs
from escalade_server.telemetry.endpoint import Endpoint
from escalade_server.telemetry.export import SpanExporter
from escalade_server.telemetry.logs import Level
from escalade_server.telemetry.sink import LineSink

KEYS = ("made-up", "sk-canary-", "sk-never-to-be-shown-")
PROMPTS = (
    "canary-prompt", "Parse this", "Say something.", "Design it.", "Say it.", "Hello.", "Explain.",
    "the prompt nobody may read",
)  # fmt: skip
ANSWERS = ("canary-answer", "All is well.", "At last.", "An answer of six short words.")
SHAPES = (
    r"esc_[0-9a-f]{1,32}_[0-9a-f]{64}",  # a token of ours
    r":[0-9a-f]{4,64}:0 \S{1,99}:[0-9a-f]{4,64}:1\b",  # what simulated models answer
)
CANARY = re.compile("|".join([*map(re.escape, (*KEYS, *PROMPTS, *ANSWERS)), *SHAPES]))
LOGS = ("*.jsonl", "*.log")
LOUDNESS: tuple[Level, ...] = ("debug", "info", "warning", "error")
Where = Literal["log", "span", "metric", "event", "error"]


class Catcher:
    """What one test has had written."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.seen: dict[str, int] = {}

    def read(self, where: Where, text: str) -> None:
        """Read over something that was written."""
        self.seen[where] = self.seen.get(where, 0) + 1
        for canary in CANARY.finditer(text):
            around = text[max(canary.start() - 80, 0) : canary.end() + 80]
            self.found.append(f"{where}: {canary[0]!r} in ...{around}...")

    def read_logs(self, folder: Path) -> None:
        """Read over the logs of other processes."""
        for pattern in LOGS:
            for path in folder.rglob(pattern):
                self.read("log", path.read_text(errors="replace"))


CATCHER = pytest.StashKey[Catcher]()
_now: list[Catcher] = [Catcher()]


class LoudSink(LineSink):
    """Has every line written down here, and passes on what was asked for."""

    def __init__(self, inner: LineSink, level: Level) -> None:
        self._inner = inner
        for place, name in enumerate(LOUDNESS):
            passed = place >= LOUDNESS.index(level)
            setattr(self, name, self._at(inner.put if passed else None))

    @staticmethod
    def _at(put: Callable[[str], None] | None) -> Callable[[str], None]:
        def write(line: str) -> None:
            _now[0].read("log", line)
            if put is not None:
                put(line)

        return write


def listen(patch: pytest.MonkeyPatch) -> None:
    """Read over whatever is written in this process, from now on."""
    make_logger = logs.make_logger
    page, told, put = Endpoint.page, Feed.told, SpanExporter.put
    fail = escalade.EscaladeError.__init__

    def loud_logger(sink: LineSink, stream: Any, form: Any, level: Level, *rest: Any) -> Any:
        return make_logger(LoudSink(sink, level), stream, form, "debug", *rest)

    def loud_observer(log: Any, _level: Level, **named: bool) -> logs.LogObserver:
        return logs.LogObserver(log, "debug", **named)

    def read_page(self: Endpoint, path: str, accept: str) -> tuple[int, str, bytes]:
        answer = page(self, path, accept)
        _now[0].read("metric", answer[2].decode())
        return answer

    def read_events(self: Feed, entries: Sequence[object]) -> None:
        for entry in entries:
            _now[0].read("event", repr(entry))
        told(self, entries)  # type: ignore[arg-type]  # as it was given

    def read_spans(self: SpanExporter, parcel: Any, *, eventful: bool) -> None:
        for span in parcel.spans:
            _now[0].read("span", repr(span))
        put(self, parcel, eventful=eventful)

    def read_error(self: escalade.EscaladeError, *words: Any, **named: Any) -> None:
        fail(self, *words, **named)
        _now[0].read("error", f"{self} {self!r} {vars(self)}")

    patch.setattr("escalade_server.bootstrap.log.make_logger", loud_logger)
    patch.setattr(sys.modules["escalade_server.bootstrap.start"], "LogObserver", loud_observer)
    patch.setattr(Endpoint, "page", read_page)
    patch.setattr(Feed, "told", read_events)
    patch.setattr(SpanExporter, "put", read_spans)
    patch.setattr(escalade.EscaladeError, "__init__", read_error)


def pytest_configure(config: pytest.Config) -> None:
    patch = pytest.MonkeyPatch()
    listen(patch)
    config.add_cleanup(patch.undo)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    _now[0] = item.stash[CATCHER] = Catcher()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        catcher = item.stash[CATCHER]
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        if isinstance(folder, Path) and folder.is_dir():
            catcher.read_logs(folder)
        for name, text in report.sections:
            if "stdout" not in name:  # a command's own answer is for its caller
                catcher.read("log", text)
        if catcher.found and report.passed:
            report.outcome = "failed"
            report.longrepr = "secrets were written:\n" + "\n".join(catcher.found[:10])
    return report


@pytest.fixture
def canaries(request: pytest.FixtureRequest) -> Catcher:
    """What this test has had written so far."""
    catcher: Catcher = request.node.stash[CATCHER]
    return catcher
