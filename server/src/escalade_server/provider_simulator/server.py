"""The simulator: one HTTP server that is many vendors, and what controls it.

The order in which a request can fail is a vendor's: key, body, model, then outage or scripted
fault, context window, quotas, concurrency. Only then is it answered, counted and billed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import NamedTuple

import msgspec
from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from escalade_server.engine.clock import SystemClock
from escalade_server.provider_simulator.answer import Answer, Question, compose
from escalade_server.provider_simulator.delivery import (
    UNANSWERED,
    Delivery,
    Exchange,
    unanswered,
)
from escalade_server.provider_simulator.dialect import Asked, BadRequestError, Envelope
from escalade_server.provider_simulator.ledger import Booking, Ledger, Tally, cost_pico
from escalade_server.provider_simulator.provider_state import ModelState, ProviderState, Voice
from escalade_server.provider_simulator.quota import refusal_of
from escalade_server.provider_simulator.refusals import (
    JSON_TYPE,
    ErrorFacts,
    Refusal,
    remaining_headers,
    render,
)
from escalade_server.provider_simulator.scenario import Fault, FaultKind, ModelScript, Scenario
from escalade_server.provider_simulator.scenario_file import (
    ScenarioError,
    check_scenario,
    load_scenario,
)
from escalade_server.provider_simulator.vendor_errors import HTTP_KINDS, error_of, retry_after_ms
from escalade_server.provider_simulator.vendors import Vendor

API_VERSIONS = frozenset({"v1", "v1beta"})
BODY_MAX_BYTES = 32 * 1024 * 1024
SHUTDOWN_S = 0.2
CONTROL = "_simulator"
SOME_LIMIT = 50
"""Named by scripted refusals of quotas that the scenario does not have."""
NEAREST = FaultKind.RATE_LIMIT
"""How a scripted refusal is told in a foreign dialect whose vendor has no such thing."""
HIDDEN_KEY = "sk-****"
NAMES_INSTANT = re.compile(r"retry-after|ratelimit", re.IGNORECASE)


class Call(NamedTuple):
    """A valid request to a model."""

    exchange: Exchange
    provider: ProviderState
    voice: Voice
    asked: Asked
    model: ModelState
    question: Question
    number: int
    """Of this model, since its script was set."""


class Simulator:
    """Plays a scenario over HTTP: vendor `P` listens under `{base_url}/P/v1` (and `/v1beta`).

    Control paths, for those who are not in this process: `GET /_simulator/ledger`,
    `POST /_simulator/scenario` (a scenario as body), `POST /_simulator/break?provider=P[&kind=K]`,
    `POST /_simulator/mend?provider=P`.
    """

    def __init__(self, scenario: Scenario, *, now_ms: Callable[[], int] | None = None) -> None:
        """Takes what to play, and the clock by which quotas and timed faults go.

        Raises:
            ScenarioError: the scenario cannot be played.
        """
        check_scenario(scenario)
        self.scenario = scenario
        self.now_ms = SystemClock().now_ms if now_ms is None else now_ms
        self.started_ms = self.now_ms()
        self.base_url = ""
        self.answers = 0
        self.refusals = 0
        self.runner: web.ServerRunner | None = None
        self.providers = {
            name: ProviderState(name, script) for name, script in scenario.providers.items()
        }

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listens; returns the base URL (`http://host:port`). Port 0 takes a free one."""
        assert self.runner is None, "started twice"
        self.started_ms = self.now_ms()
        loop = asyncio.get_running_loop()

        def request_of(
            message: RawRequestMessage,
            payload: StreamReader,
            protocol: RequestHandler,
            writer: AbstractStreamWriter,
            task: asyncio.Task[None],
        ) -> web.BaseRequest:
            return web.BaseRequest(
                message, payload, protocol, writer, task, loop, client_max_size=BODY_MAX_BYTES
            )

        server = web.Server(
            self.handle,
            request_factory=request_of,
            handler_cancellation=True,
            access_log=None,
        )
        self.runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
        await self.runner.setup()
        await web.TCPSite(self.runner, host, port, backlog=1024).start()
        bound_host, bound_port = self.runner.addresses[0][:2]
        self.base_url = f"http://{bound_host}:{bound_port}"
        return self.base_url

    async def stop(self) -> None:
        """Cuts what is open and stops listening. Does nothing when not started."""
        if self.runner is None:
            return
        for provider in self.providers.values():
            provider.cut_all()
        await self.runner.cleanup()
        self.runner = None

    def provider_url(self, provider: str) -> str:
        """The base URL to configure for a provider: `{base_url}/{provider}/v1`.

        A provider that speaks Gemini's dialect at home is at `.../v1beta`; both answer at both.
        """
        state = self.providers.get(provider)
        gemini = state is not None and state.vendor.dialect == "gemini"
        return f"{self.base_url}/{provider}/{'v1beta' if gemini else 'v1'}"

    def ledger(self) -> Ledger:
        """The providers' own count, now."""
        return Ledger(
            {
                (provider.name, tally.model): tally.account()
                for provider in self.providers.values()
                for tally in provider.tallies.values()
            }
        )

    def play(self, scenario: Scenario) -> None:
        """Changes to another scenario, live: counts stay, request numbers start again at 1.

        Raises:
            ScenarioError: the scenario cannot be played; the running one goes on.
        """
        check_scenario(scenario)
        self.scenario = scenario
        for name, script in scenario.providers.items():
            known = self.providers.get(name)
            if known is None:
                self.providers[name] = ProviderState(name, script)
            else:
                known.play(script)
        for name in self.providers.keys() - scenario.providers.keys():
            self.providers.pop(name).cut_all()

    def script(self, provider: str, model: str, script: ModelScript) -> None:
        """Changes how one model answers, live. A new model is added.

        Raises:
            KeyError: no such provider.
            ScenarioError: the script cannot be played.
        """
        old = self.scenario.providers[provider]
        changed = replace(old, models={**old.models, model: script})
        scenario = replace(self.scenario, providers={**self.scenario.providers, provider: changed})
        check_scenario(scenario)
        self.scenario = scenario
        self.providers[provider].script_model(changed, model)

    def break_provider(self, provider: str, kind: FaultKind = FaultKind.RESET) -> None:
        """Begins an outage: open streams are cut, every request meets `kind`.

        Raises:
            KeyError: no such provider.
            ScenarioError: the vendor has no such refusal, or it needs an answer to break.
        """
        state = self.providers[provider]
        if kind in HTTP_KINDS:
            if error_of(state.vendor.name, kind) is None:
                message = f"{state.vendor.name} has no {kind.value!r}"
                raise ScenarioError(message)
        elif kind not in UNANSWERED:
            message = f"an outage cannot be {kind.value!r}: it needs an answer"
            raise ScenarioError(message)
        state.outage = Fault(kind=kind)
        state.cut_all()

    def mend_provider(self, provider: str) -> None:
        """Ends an outage.

        Raises:
            KeyError: no such provider.
        """
        self.providers[provider].outage = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serves one HTTP request: a vendor's or a control one."""
        name, _, path = request.path.removeprefix("/").partition("/")
        if name == CONTROL:
            return await self.control(request, path)
        provider = self.providers.get(name)
        version, _, path = path.partition("/")
        if provider is None or version not in API_VERSIONS:
            return web.json_response({"error": {"message": "Not Found", "code": 404}}, status=404)
        exchange = Exchange(request)
        provider.exchanges.add(exchange)
        try:
            return await self.serve(exchange, provider, path)
        except ConnectionError:
            # The client is gone: nobody reads this, and it is no fault to be logged.
            return web.Response()
        finally:
            provider.exchanges.discard(exchange)

    async def serve(
        self, exchange: Exchange, provider: ProviderState, path: str
    ) -> web.StreamResponse:
        """A request to a vendor, up to the point where its model is known."""
        request = exchange.request
        asked = Asked(path, request.query, request.headers, b"")
        voice = provider.voice(asked)
        authorized = provider.lets_in(voice.dialect.key(asked))
        if request.method == "GET" and path == "models" and authorized:
            if provider.outage is not None:
                exchange.reset()
            body = voice.dialect.models(list(provider.models), provider.name)
            return web.Response(body=body, content_type=JSON_TYPE)
        nobody = provider.tally("")
        nobody.requests_received += 1
        try:
            asked = asked._replace(body=await request.read())
        except web.HTTPRequestEntityTooLarge:
            return self.refuse(voice, asked, nobody, Fault(kind=FaultKind.TOO_LARGE))
        if not authorized:
            return self.refuse(voice, asked, nobody, Fault(kind=FaultKind.UNAUTHORIZED))
        try:
            question = voice.dialect.question(asked, voice.vendor)
        except BadRequestError as error:
            bad = Fault(kind=FaultKind.BAD_REQUEST)
            return self.refuse(voice, asked, nobody, bad, error=error)
        model = provider.models.get(question.model)
        if model is None:
            gone = Fault(kind=FaultKind.MODEL_GONE)
            return self.refuse(voice, asked, nobody, gone, question=question)
        nobody.requests_received -= 1
        model.number += 1
        model.tally.requests_received += 1
        return await self.ask(Call(exchange, provider, voice, asked, model, question, model.number))

    async def ask(self, call: Call) -> web.StreamResponse:
        """A valid request to a model: refused, failed or answered."""
        provider, model, question = call.provider, call.model, call.question
        now_ms = self.now_ms()
        fault = provider.outage or model.fault_now(
            provider.script.faults, now_ms - self.started_ms, self.scenario.seed
        )
        if fault is not None and fault.kind in HTTP_KINDS:
            return self.refuse(call.voice, call.asked, model.tally, fault, question=question)
        if fault is not None and fault.kind in UNANSWERED:
            return await self.leave_unanswered(call, fault)
        no_room = self.no_room(call, now_ms)
        if no_room is not None:
            refused, limit = no_room
            return self.refuse(
                call.voice, call.asked, model.tally, refused, question=question, limit=limit
            )
        for counters in (model.counters, provider.counters):
            counters.add("requests", 1, now_ms)
        return await self.answer(call, fault, now_ms)

    def no_room(self, call: Call, now_ms: int) -> tuple[Fault, int] | None:
        """How a request that fits no window or quota is refused, and the limit; None: it fits."""
        provider, model = call.provider, call.model
        window = model.script.context_window_tokens
        if window is not None and call.question.input_tokens > window:
            return Fault(kind=FaultKind.CONTEXT_LENGTH), window
        full = model.counters.first_full(now_ms) or provider.counters.first_full(now_ms)
        if full is not None:
            wait_ms = full.end_ms - now_ms
            kind = refusal_of(full.quota)
            return Fault(kind=kind, retry_after_ms=wait_ms), full.quota.limit
        most = model.script.concurrent_max
        if most is not None and model.tally.streams_open >= most:
            kind = FaultKind.CONCURRENCY_LIMIT
            if error_of(call.voice.vendor.name, kind) is None:
                kind = FaultKind.RATE_LIMIT
            return Fault(kind=kind), most
        return None

    async def answer(self, call: Call, fault: Fault | None, now_ms: int) -> web.StreamResponse:
        """Tells the answer, and bills what was generated however it ends."""
        model, question, voice = call.model, call.question, call.voice
        answer = compose(question, model.script, fault, call.number)
        self.answers += 1
        envelope = Envelope(
            id=f"{voice.vendor.id_prefix}{self.answers:032x}",
            created_s=now_ms // 1000,
            vendor=voice.vendor,
            cost_pico=cost_pico(model.script.price, answer, answer.output_tokens),
            question=question,
            fault=None if fault is None else fault.kind,
            reason=None if fault is None else fault.reason,
        )
        booking = self.booking(call, answer, now_ms)
        delivery = Delivery(
            exchange=call.exchange,
            dialect=voice.dialect,
            envelope=envelope,
            answer=answer,
            script=model.script,
            fault=fault,
            booking=booking,
            headers=self.headers(voice.vendor, model, now_ms),
        )
        whole = fault is not None and fault.billed
        model.tally.streams_open += 1
        try:
            return await (delivery.stream() if question.stream else delivery.whole())
        except (asyncio.CancelledError, ConnectionError):
            if not call.exchange.cut:
                model.tally.disconnects += 1
                whole = whole or delivery.script.bills_after_disconnect
            raise
        finally:
            model.tally.streams_open -= 1
            booking.settle(whole=whole)

    def booking(self, call: Call, answer: Answer, now_ms: int) -> Booking:
        """Opens the bill of an answer."""
        model = call.model
        counters = (model.counters, call.provider.counters)
        return Booking(model.tally, counters, model.script.price, answer, now_ms)

    async def leave_unanswered(self, call: Call, fault: Fault) -> web.StreamResponse:
        """A fault in place of an answer; billed only when the fault says that it is."""
        model, question, vendor = call.model, call.question, call.voice.vendor
        model.tally.requests_refused += 1
        if fault.billed:
            answer = compose(question, model.script, None, call.number)
            self.booking(call, answer, self.now_ms()).settle(whole=True)
        busy = self.refusal(vendor, Fault(kind=FaultKind.OVERLOADED), question=question)
        try:
            return await unanswered(call.exchange, fault.kind, vendor.keep_alive, busy.body)
        except (asyncio.CancelledError, ConnectionError):
            model.tally.disconnects += not call.exchange.cut
            raise

    def refuse(
        self,
        voice: Voice,
        asked: Asked,
        tally: Tally,
        fault: Fault,
        *,
        question: Question | None = None,
        error: BadRequestError | None = None,
        limit: int = SOME_LIMIT,
    ) -> web.Response:
        """Counts a refusal and makes its response."""
        tally.requests_refused += 1
        refusal = self.refusal(voice.vendor, fault, question=question, error=error, limit=limit)
        body = refusal.body
        if refusal.content_type == JSON_TYPE:
            body = voice.dialect.error_body(body, asked)
        headers = dict(refusal.headers) | {"content-type": refusal.content_type}
        if fault.retry_after is not None:
            headers = {k: v for k, v in headers.items() if not NAMES_INSTANT.search(k)}
            headers |= {"retry-after": fault.retry_after} if fault.retry_after else {}
        if voice.vendor.request_id_header:
            headers[voice.vendor.request_id_header] = refusal.request_id
        return web.Response(status=refusal.status, body=body, headers=headers)

    def refusal(
        self,
        vendor: Vendor,
        fault: Fault,
        *,
        question: Question | None = None,
        error: BadRequestError | None = None,
        limit: int = SOME_LIMIT,
    ) -> Refusal:
        """The vendor's refusal of this kind, filled in."""
        self.refusals += 1
        row = error_of(vendor.name, fault.kind) or error_of(vendor.name, NEAREST)
        assert row is not None, "every vendor has it"
        now_ms = self.now_ms()
        wait_ms = fault.retry_after_ms
        facts = ErrorFacts(
            model=question.model if question else "",
            now_ms=now_ms,
            retry_after_ms=retry_after_ms(fault.kind, now_ms) if wait_ms is None else wait_ms,
            limit=limit,
            used=limit,
            tokens=question.input_tokens if question else 0,
            detail=error.detail if error else HIDDEN_KEY,
            param=error.param if error else None,
            request_id=f"req_refused{self.refusals:025x}",
        )
        return render(row, facts)

    def headers(self, vendor: Vendor, model: ModelState, now_ms: int) -> dict[str, str]:
        """Headers of a good answer."""
        headers = {"cache-control": "no-cache"}
        if vendor.request_id_header:
            headers[vendor.request_id_header] = f"req_{self.answers:032x}"
        if vendor.rate_headers is not None:
            headers |= remaining_headers(vendor.rate_headers, model.counters.counters, now_ms)
        return headers

    async def control(self, request: web.BaseRequest, path: str) -> web.Response:
        """The control paths."""
        try:
            match request.method, path:
                case "GET", "ledger":
                    return web.Response(body=ledger_json(self.ledger()), content_type=JSON_TYPE)
                case "POST", "scenario":
                    self.play(load_scenario((await request.read()).decode(errors="replace")))
                case "POST", "break":
                    kind = FaultKind(request.query.get("kind", FaultKind.RESET))
                    self.break_provider(request.query.get("provider", ""), kind)
                case "POST", "mend":
                    self.mend_provider(request.query.get("provider", ""))
                case _:
                    return web.json_response({"error": f"no such control: {path}"}, status=404)
        except KeyError as error:
            return web.json_response({"error": f"no such provider: {error}"}, status=404)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"ok": True})


def ledger_json(ledger: Ledger) -> bytes:
    """A ledger for other processes: `{"accounts": [...], "cost_nanos": n}`."""
    accounts = [
        asdict(account) | {"cost_nanos": account.cost_nanos} for account in ledger.accounts.values()
    ]
    return msgspec.json.encode({"accounts": accounts, "cost_nanos": ledger.cost_nanos})
