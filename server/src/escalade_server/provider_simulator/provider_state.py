"""What changes while providers are played: use of quotas, request numbers, outages, open calls."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from escalade_server.provider_simulator.anthropic_dialect import AnthropicDialect
from escalade_server.provider_simulator.delivery import Exchange
from escalade_server.provider_simulator.dialect import Asked, Dialect
from escalade_server.provider_simulator.gemini_dialect import GeminiDialect
from escalade_server.provider_simulator.ledger import Tally
from escalade_server.provider_simulator.openai_dialect import OpenAIDialect
from escalade_server.provider_simulator.quota import Counters
from escalade_server.provider_simulator.scenario import Fault, ModelScript, ProviderScript
from escalade_server.provider_simulator.vendors import HOME, DialectName, Vendor, vendor_of

PERCENT = 100
DIALECTS: Mapping[DialectName, Dialect] = MappingProxyType(
    {"openai": OpenAIDialect(), "anthropic": AnthropicDialect(), "gemini": GeminiDialect()}
)


class Voice(NamedTuple):
    """How a request is answered."""

    dialect: Dialect
    vendor: Vendor


class ModelState:
    """One model in play."""

    __slots__ = ("counters", "number", "script", "tally")

    def __init__(self, script: ModelScript, tally: Tally) -> None:
        """Begins with nothing used."""
        self.script = script
        self.tally = tally
        self.counters = Counters(script.quotas)
        self.number = 0

    def play(self, script: ModelScript) -> None:
        """Changes the script: numbers start again, use of quotas stays."""
        self.script = script
        self.counters = Counters(script.quotas, self.counters)
        self.number = 0

    def fault_now(self, of_provider: Iterable[Fault], elapsed_ms: int, seed: int) -> Fault | None:
        """The first fault whose conditions the current request meets, the model's own first."""
        for place, fault in enumerate((*self.script.faults, *of_provider)):
            if fault.on_requests and self.number not in fault.on_requests:
                continue
            if self.number % fault.every or elapsed_ms < fault.from_ms:
                continue
            if fault.until_ms is not None and elapsed_ms >= fault.until_ms:
                continue
            if fault.percent < PERCENT:
                # Drawn by number, not in order of arrival: the same request always fares the same.
                key = f"{seed}/{self.tally.provider}/{self.tally.model}/{self.number}/{place}"
                if zlib.crc32(key.encode()) % PERCENT >= fault.percent:
                    continue
            return fault
        return None


class ProviderState:
    """One provider in play."""

    def __init__(self, name: str, script: ProviderScript) -> None:
        """Begins with nothing used and no outage."""
        self.name = name
        self.script = script
        self.vendor: Vendor = vendor_of(name, script.vendor, script.dialect)
        self.counters = Counters(script.quotas)
        self.outage: Fault | None = None
        self.exchanges: set[Exchange] = set()
        self.tallies: dict[str, Tally] = {}
        self.models = {
            model: ModelState(model_script, self.tally(model))
            for model, model_script in script.models.items()
        }

    def play(self, script: ProviderScript) -> None:
        """Changes the script of the provider and of all its models."""
        self.vendor = vendor_of(self.name, script.vendor, script.dialect)
        self.counters = Counters(script.quotas, self.counters)
        for model in script.models:
            self.script_model(script, model)
        for model in self.models.keys() - script.models.keys():
            del self.models[model]
        self.script = script

    def script_model(self, script: ProviderScript, model: str) -> None:
        """Changes the script of one model, or adds it."""
        self.script = script
        known = self.models.get(model)
        if known is None:
            self.models[model] = ModelState(script.models[model], self.tally(model))
        else:
            known.play(script.models[model])

    def tally(self, model: str) -> Tally:
        """The tally of a model; the empty name counts requests that named none of the models."""
        found = self.tallies.get(model)
        if found is None:
            found = self.tallies[model] = Tally(self.name, model)
        return found

    def voice(self, asked: Asked) -> Voice:
        """Who answers: the provider's own vendor, or the one whose dialect the path is of."""
        called = dialect_called(asked, self.vendor.dialect)
        vendor = self.vendor if called == self.vendor.dialect else HOME[called]
        return Voice(DIALECTS[called], vendor)

    def lets_in(self, key: str) -> bool:
        """Whether this is a key of this provider."""
        if not self.vendor.needs_key:
            return True
        return key in self.script.api_keys if self.script.api_keys else bool(key)

    def cut_all(self) -> None:
        """Resets every open connection that waits for this provider."""
        for exchange in tuple(self.exchanges):
            exchange.reset()


def dialect_called(asked: Asked, home: DialectName) -> DialectName:
    """The dialect a request is in, by its path; the list of models tells by its headers."""
    if asked.path == "messages":
        return "anthropic"
    if asked.path.startswith("models/") and ":" in asked.path:
        return "gemini"
    if asked.path == "chat/completions":
        return "openai"
    if "anthropic-version" in asked.headers:
        return "anthropic"
    if "x-goog-api-key" in asked.headers:
        return "gemini"
    return "openai" if "authorization" in asked.headers else home
