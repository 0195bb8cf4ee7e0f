"""The composition root: from a strategy file to a running server. It knows every class."""

from escalade_server.api.tls import TlsFiles
from escalade_server.bootstrap.doctor import Found, Mark, Patient, examine
from escalade_server.bootstrap.log import NOBODY_KNOWN
from escalade_server.bootstrap.options import Authentication, Options, StartError
from escalade_server.bootstrap.process import make_simulator, on_hangup, run, stop_signal, version
from escalade_server.bootstrap.start import Running, start
from escalade_server.bootstrap.state import AnyLedgerDesk, ledger_desk, token_desk
from escalade_server.bootstrap.strategy import load_strategy, missing_keys
from escalade_server.bootstrap.workers import WORKERS_MAX, Workers, start_workers
from escalade_server.core.catalog import Counter, Period, Rank, Unit
from escalade_server.engine.ports import StoreError, Token
from escalade_server.engine.tokens import TokenDesk
from escalade_server.provider_simulator import ScenarioError, Simulator
from escalade_server.strategy.errors import StrategyErrors
from escalade_server.strategy.load import Loaded
from escalade_server.strategy.model import schema
from escalade_server.strategy.vocabulary import vocabulary
from escalade_server.telemetry.logs import Format, Level

__all__ = [
    "NOBODY_KNOWN",
    "WORKERS_MAX",
    "AnyLedgerDesk",
    "Authentication",
    "Counter",
    "Format",
    "Found",
    "Level",
    "Loaded",
    "Mark",
    "Options",
    "Patient",
    "Period",
    "Rank",
    "Running",
    "ScenarioError",
    "Simulator",
    "StartError",
    "StoreError",
    "StrategyErrors",
    "TlsFiles",
    "Token",
    "TokenDesk",
    "Unit",
    "Workers",
    "examine",
    "ledger_desk",
    "load_strategy",
    "make_simulator",
    "missing_keys",
    "on_hangup",
    "run",
    "schema",
    "start",
    "start_workers",
    "stop_signal",
    "token_desk",
    "version",
    "vocabulary",
]
