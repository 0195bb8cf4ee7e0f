"""The scripted day of `escalade demo`: a job in steps, and what happens to its providers meanwhile.

The job is the one that used to die at "rate limit": read a codebase, write its documentation.
Prices here are the vendors' list prices, stated apart from the server's own price list: the bill
at the end is the providers' count, not an echo of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto

from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    Price,
    ProviderScript,
    Quota,
    Scenario,
    Simulator,
)

PROJECT = "paperplane, an invoicing service of 14 modules"
MODULES = (
    "app", "config", "accounts", "invoices", "lines", "taxes", "rates",
    "payments", "refunds", "ledger", "exports", "mailer", "jobs", "storage",
)  # fmt: skip
FREE_MODEL = ("openai", "gpt-4o-mini")
"""The one free model of the job without Escalade."""
FREE_REQUESTS = 50
PACIFIC = "America/Los_Angeles"
GOOGLE_REQUESTS = 9
"""What Google really grants on this day; the strategy believes in 100."""
BREAK_AT_MODULE = 9
"""Index of the module at whose documentation deepseek goes down."""
README_BREAKS_AFTER = 60
"""Words of the README that deepseek still writes before its line is cut."""
WORD_MS = 25
TOKENS_USUAL, TOKENS_HARD = 1_000, 3_000


class Turn(Enum):
    """What the script does to the providers, just before a chore."""

    DEEPSEEK_DOWN = auto()
    DEEPSEEK_BACK = auto()
    LINE_WILL_BREAK = auto()


TURN_TEXT = {
    Turn.DEEPSEEK_DOWN: "deepseek goes down: from now on it resets every connection",
    Turn.DEEPSEEK_BACK: "deepseek is back",
    Turn.LINE_WILL_BREAK: "deepseek's line will break in the middle of the next answer",
}


@dataclass(frozen=True, slots=True)
class Chore:
    """One task of the job. ``tokens`` is the stated context, which counts for the score only."""

    type: str
    title: str
    files: int = 1
    tokens: int = 2_000
    tokens_max: int = TOKENS_USUAL
    turn: Turn | None = None
    streamed: bool = False

    @property
    def prompt(self) -> str:
        """What the model is asked."""
        return (
            f"Project: {PROJECT}. Task: {self.title}.\n"
            "Work from the source below. Name public functions with their arguments, errors and"
            " units; say what a caller must know; do not invent what the code does not show.\n\n"
            f"{SOURCE}"
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A part of the job; ``at_once`` tasks run side by side."""

    title: str
    chores: tuple[Chore, ...]
    at_once: int = 1


SOURCE = '''\
def settle(invoice: Invoice, paid_cents: int, on: date) -> Settlement:
    """Books a payment; what is over goes to the account, never to the next invoice."""
    open_cents = invoice.total_cents - invoice.paid_cents
    if paid_cents <= 0:
        raise PaymentError(f"{paid_cents} is no amount")
    return Settlement(invoice.id, min(paid_cents, open_cents), max(paid_cents - open_cents, 0), on)
'''
PROSE = (
    "The module keeps amounts in cents and never rounds between steps. Its public face is small:"
    " one function that books, one that undoes, and one that lists. Errors are typed by what the"
    " caller can do about them. "
)
USUAL_TEXT, HARD_TEXT = PROSE * 7, PROSE * 56
README = (
    "# Paperplane\n\nPaperplane writes invoices, mails them and books what comes back. "
    + "Every amount is in cents, every day is a day of the customer, and nothing is rounded twice. "
    * 2
    + "\n\n## Start\n\nInstall it, write a config of six lines, run the app. The jobs run"
    " inside it: reminders at nine, exports at midnight. "
    + "\n\n## Read on\n\nEach module has its page: what it is for, what it promises, what it"
    " raises, and one example that the doctests run. The architecture page says why payments never"
    " touch invoices directly. "
)


def job() -> tuple[Step, ...]:
    """List the steps of the job, in order."""
    parse = [Chore("parse", f"parse {name}.py") for name in MODULES]
    read = [
        chore
        for name in MODULES
        for chore in (
            Chore("read", f"read {name}.py"),
            Chore("read", f"read test_{name}.py"),
        )
    ]
    write = [chore for place, name in enumerate(MODULES) for chore in _pages(place, name)]
    debug = [
        Chore("debug", f"mend the doctest of {name}.py", files=3)
        for name in ("taxes", "rates", "refunds", "exports")
    ]
    refactor = [
        _hard("refactor", f"plan: {what}")
        for what in ("split ledger.py", "untangle jobs.py", "one Money type")
    ]
    architecture = [
        _hard("architecture", f"describe {what}")
        for what in ("the payment path", "the job queue", "the whole system")
    ]
    tutorials = [
        Chore("generate", f"tutorial: {what}")
        for what in ("first invoice", "refund", "export", "reminder")
    ]
    tutorials[0] = replace(tutorials[0], turn=Turn.DEEPSEEK_BACK)
    readme = Chore(
        "generate", "write README.md, streamed", turn=Turn.LINE_WILL_BREAK, streamed=True
    )
    publish = [Chore("format", "format the index"), Chore("generate", "write CHANGELOG.md")]
    return (
        Step("parse the modules", tuple(parse), at_once=4),
        Step(
            "plan the documentation",
            tuple(Chore("plan", f"plan {what}") for what in ("pages", "chapters", "examples")),
        ),
        Step("read the code and its tests", tuple(read), at_once=4),
        Step("document every module", tuple(write)),
        Step("mend failing doctests", tuple(debug)),
        Step("plan the refactoring", tuple(refactor)),
        Step("describe the architecture", tuple(architecture)),
        Step("write tutorials", tuple(tutorials)),
        Step("write the README and publish", (readme, *publish)),
    )


def _pages(place: int, name: str) -> tuple[Chore, Chore]:
    turn = Turn.DEEPSEEK_DOWN if place == BREAK_AT_MODULE else None
    return (
        Chore("format", f"signature table of {name}.py"),
        Chore("generate", f"document {name}.py", turn=turn),
    )


def _hard(kind: str, title: str) -> Chore:
    return Chore(kind, title, files=10, tokens=50_000, tokens_max=TOKENS_HARD)


def scenario(pace: float = 0) -> Scenario:
    """Script the providers of the demo's strategy, by the names that go over the wire.

    ``pace`` 1 gives the first tokens of hosted models some time, 0 gives none.
    """
    script = Scenario(
        providers={
            "openai": _provider(
                ("gpt-4o-mini", _model(150_000, 600_000, 70, quota=Quota(limit=FREE_REQUESTS))),
                ("gpt-4o", _model(2_500_000, 10_000_000, 350, text=HARD_TEXT)),
            ),
            "google": _provider(
                (
                    "gemini-2.0-flash",
                    _model(100_000, 400_000, 80, quota=Quota(limit=GOOGLE_REQUESTS, zone=PACIFIC)),
                ),
            ),
            "deepseek": _provider(("deepseek-chat", _model(270_000, 1_100_000, 90))),
            "openrouter": _provider(("minimax/minimax-m2.7", _model(300_000, 1_200_000, 110))),
            "nano-gpt": _provider(("zai-org/glm-5", _model(1_000_000, 3_200_000, 120))),
            "anthropic": _provider(
                ("claude-3-haiku-20240307", _model(250_000, 1_250_000, 200, text=HARD_TEXT)),
            ),
        }
    )
    providers = {
        name: replace(provider, models={m: _paced(s, pace) for m, s in provider.models.items()})
        for name, provider in script.providers.items()
    }
    return replace(script, providers=providers)


def _paced(script: ModelScript, pace: float) -> ModelScript:
    return replace(script, first_token_ms=int(script.first_token_ms * pace))


def _provider(*models: tuple[str, ModelScript]) -> ProviderScript:
    return ProviderScript(models=dict(models))


def _model(
    input_pico: int,
    output_pico: int,
    first_token_ms: int,
    *,
    quota: Quota | None = None,
    text: str = USUAL_TEXT,
) -> ModelScript:
    return ModelScript(
        price=Price(input_pico=input_pico, output_pico=output_pico),
        first_token_ms=first_token_ms,
        quotas=() if quota is None else (quota,),
        text=text,
        replies={"README.md": README},
    )


class Weather:
    """What the script, and the user's ``--break``, do to the providers."""

    def __init__(self, simulator: Simulator, broken: Iterable[str], pace: float) -> None:
        """Break what the user wants broken, for the entire day."""
        self._simulator = simulator
        self._word_ms = max(int(WORD_MS * pace), 1)
        self._broken = frozenset(broken)
        for provider in self._broken:
            simulator.break_provider(provider)

    def turn(self, turn: Turn) -> bool:
        """Let a turn of the script happen; False if the user's outage leaves nothing to turn."""
        if "deepseek" in self._broken:
            return False
        match turn:
            case Turn.DEEPSEEK_DOWN:
                self._simulator.break_provider("deepseek")
            case Turn.DEEPSEEK_BACK:
                self._simulator.mend_provider("deepseek")
            case Turn.LINE_WILL_BREAK:
                self._break_line()
        return True

    def _break_line(self) -> None:
        """Slow all answers down, so that people see them come, and cut the next of deepseek."""
        cut = Fault(kind=FaultKind.CUT, on_requests=(1,), after_chunks=README_BREAKS_AFTER)
        self._rescript(chunk_interval_ms=self._word_ms, of_deepseek=(cut,))

    def calm(self) -> None:
        """Let answers come at their usual pace again."""
        self._rescript(chunk_interval_ms=0)

    def _rescript(self, *, chunk_interval_ms: int, of_deepseek: tuple[Fault, ...] = ()) -> None:
        for provider, script in self._simulator.scenario.providers.items():
            faults = of_deepseek if provider == "deepseek" else ()
            for name, model in script.models.items():
                told = replace(model, chunk_interval_ms=chunk_interval_ms, faults=faults)
                self._simulator.script(provider, name, told)
