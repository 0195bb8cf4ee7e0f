"""Simulated model providers: real HTTP, scripted behaviour, the provider's own count.

One process plays many vendors at once; vendor `P` listens under `/P/v1`, in the dialect of the
path that is called. It exists so that everyone can see an escalation without a key, and so that
tests can compare what the product believes it spent with what the vendor says
(`Simulator.ledger`).
"""

from escalade_server.provider_simulator.default_scenario import default_scenario
from escalade_server.provider_simulator.ledger import Account, Ledger
from escalade_server.provider_simulator.scenario import (
    Fault,
    FaultKind,
    ModelScript,
    Price,
    ProviderScript,
    Quota,
    Scenario,
    ToolCallScript,
)
from escalade_server.provider_simulator.scenario_file import ScenarioError, load_scenario
from escalade_server.provider_simulator.server import Simulator

__all__ = [
    "Account",
    "Fault",
    "FaultKind",
    "Ledger",
    "ModelScript",
    "Price",
    "ProviderScript",
    "Quota",
    "Scenario",
    "ScenarioError",
    "Simulator",
    "ToolCallScript",
    "default_scenario",
    "load_scenario",
]
