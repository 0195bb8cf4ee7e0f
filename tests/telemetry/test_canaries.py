"""A tour past every door through which words could get out, and proof that the watch would see."""

import asyncio
import io
import json
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import escalade
from escalade_server import bootstrap
from escalade_server.bootstrap import Options, Rank, Running, token_desk
from tests.canaries import CANARY, Catcher

PROMPT = "canary-prompt: my diary"
ANSWER = "canary-answer: dear reader"
KEY = "sk-canary-of-a-provider"
STATUSES = (400, 401, 402, 403, 404, 413, 418, 429, 500, 503, 529)
MOODS = ("fine", "cut", "garbage", *map(str, STATUSES))


class Parrot(BaseHTTPRequestHandler):
    """A provider that quotes all it was sent, headers and body, in whatever it answers."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        mood = self.path.split("/")[1]
        heard = f"{self.headers} {body}"
        if mood in {"fine", "cut"}:
            delta = {"choices": [{"index": 0, "delta": {"content": ANSWER}}], "model": "m"}
            end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "model": heard}
            said = f"data: {json.dumps(delta)}\n\n"
            if mood == "fine":
                said += f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n"
            self.answer(200, "text/event-stream", said)
        elif mood == "garbage":
            self.answer(200, "text/event-stream", f"data: {heard!r}\n\n")
        else:
            error = {"message": f"you said {heard}", "type": heard[:60], "code": "x"}
            self.answer(int(mood), "application/json", json.dumps({"error": error}))

    def answer(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        return


class Spans(BaseHTTPRequestHandler):
    """Takes spans by OTLP over HTTP."""

    taken: list[bytes]

    def do_POST(self) -> None:
        self.taken.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        return


@contextmanager
def over_http(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def strategy(url: str) -> str:
    models = "\n".join(f"        - {{provider: p{mood}, model: m{mood}}}" for mood in MOODS)
    providers = "\n".join(
        f"  p{mood}: {{base_url: {url}/{mood}/v1, dialect: openai, api_key_env: KEY}}"
        for mood in MOODS
    )
    return f"""\
fallback_strategy:
  layers:
    - name: all
      priority: 1
      models:
{models}
  failure_handling: {{on_all_layers_exhausted: fail}}
providers:
{providers}
agents:
  alice: {{}}
"""


@asynccontextmanager
async def serving(folder: Path, url: str, spans: str, log: io.StringIO) -> AsyncIterator[Running]:
    file = folder / "strategy.yaml"
    file.write_text(strategy(url))
    told = Options(
        strategy=str(file), port=0, state=str(folder / "state.sqlite3"), grace_s=1.0,
        log_level="debug", metrics="127.0.0.1:0",
    )  # fmt: skip
    environ = {"KEY": KEY, "OTEL_EXPORTER_OTLP_ENDPOINT": spans,
               "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}  # fmt: skip
    running = await bootstrap.start(told, environ=environ, log_stream=log)
    try:
        yield running
    finally:
        await running.stop()


async def ask(client: escalade.AsyncClient, mood: str, said: list[str]) -> None:
    """Ask one model in each way; keep what is said beside the answer itself."""
    only = escalade.Constraints(allowed_models=[f"m{mood}"])
    messages = [escalade.Message.system(PROMPT), escalade.Message.user(PROMPT)]

    def announced(event: escalade.Announcement) -> None:
        if not isinstance(event, escalade.Finished):  # which has the answer, as it should
            said.append(repr(event))

    for quality in (None, escalade.QualityDemands(must_contain=[PROMPT])):
        try:
            answer = await client.complete(
                messages, constraints=only, quality=quality, on_event=announced
            )
            said.append(f"{answer.report}")
        except escalade.EscaladeError as error:
            said.append(f"{error} {error!r} {vars(error)}")


async def test_a19_d6_d7_nothing_said_gets_into_what_watches(
    tmp_path: Path, canaries: Catcher
) -> None:
    log, said, taken = io.StringIO(), list[str](), list[bytes]()
    spans_taken = type("SpansTaken", (Spans,), {"taken": taken})
    desk = token_desk(f"{tmp_path}/state.sqlite3", None)
    token, _ = desk.create("alice", Rank.OPERATOR, None)
    desk.close()
    with over_http(Parrot) as url, over_http(spans_taken) as spans:
        async with serving(tmp_path, url, spans, log) as running:
            async with escalade.AsyncClient(running.target, token=token) as client:
                for mood in MOODS:
                    await ask(client, mood, said)
            async with escalade.AsyncClient(running.target, token="esc_0_" + "0" * 64) as nobody:
                await ask(nobody, "fine", said)
            where = f"http://{running.metrics}/metrics"
            said.append(
                await asyncio.to_thread(lambda: urllib.request.urlopen(where).read().decode())
            )
    written = log.getvalue()
    files = (tmp_path / "state.sqlite3").read_bytes()
    for name in ("task.failed", "task.rejected_answer", "task.assessed"):
        assert name in written, "the log was listened to"
    assert b"alice" in b"".join(taken), "spans were sent"
    assert len(said) > 2 * len(MOODS)
    assert token.rpartition("_")[2] not in written
    for text in (written, *said, repr(taken), files.decode(errors="replace")):
        found = CANARY.search(text)
        assert found is None, text[max(0, found.start() - 300) : found.end() + 100]
    assert {"log", "span", "metric", "event", "error"} <= canaries.seen.keys()


LEAKS = """\
import io, logging, pytest
import escalade
from contextlib import AsyncExitStack
from escalade_server.bootstrap import Options
from escalade_server.bootstrap import log
from escalade_server.core.facts import AlertKind
from escalade_server.engine.feed import Feed
from escalade_server.engine.news import AlertNews, Entry
from escalade_server.telemetry.endpoint import Endpoint
from escalade_server.telemetry.export import SpanExporter
from escalade_server.telemetry.otlp import Parcel

def opened():
    return log.open_log(Options("x"), io.StringIO(), AsyncExitStack())[0]

def metrics(_):
    endpoint = Endpoint.__new__(Endpoint)
    endpoint._pages = {"/metrics": lambda _: (200, "text/plain", b"made-up 1")}
    endpoint.page("/metrics", "")

def spans(_):
    exporter = SpanExporter(None, None, opened(), queue_max=9, batch_max=9, delay_ms=9)
    exporter.put(Parcel("t", None, ["All is well."]), eventful=True)

@pytest.mark.parametrize("leak", [
    lambda _: opened().error("x", detail="Parse this, please"),
    lambda _: opened().debug("x", detail="made-up"),
    lambda folder: folder.joinpath("log.jsonl").write_text("esc_1_" + "ab" * 32),
    lambda _: escalade.EscaladeError("you said: Design it."),
    lambda _: Feed(None, None).told([Entry(1, AlertNews(AlertKind.PLAN, "sk-canary-1"))]),
    lambda _: logging.getLogger("x").warning("canary-prompt"),
    metrics,
    spans,
])
def test_leaks(tmp_path, leak):
    leak(tmp_path)

def test_does_not_leak(tmp_path):
    opened().error("x", detail="50 of 50 requests today")
"""


def test_the_watch_sees_each_way_out(pytester: pytest.Pytester) -> None:
    """A test that leaks fails, although all that it asserts is true."""
    root = Path(__file__).resolve().parents[2]
    pytester.makeconftest(
        f"import sys; sys.path.insert(0, {str(root)!r})\npytest_plugins = ['tests.canaries']\n"
    )
    pytester.makepyfile(LEAKS)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1, failed=8)
