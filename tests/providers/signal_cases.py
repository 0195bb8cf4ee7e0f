"""The cases of tests/providers/signals, and what the rules make of them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
import yaml

from escalade_server.core.commands import Candidate
from escalade_server.core.failure import Failure, FailureClass, Scope
from escalade_server.providers import error_body
from escalade_server.providers.gemini_decode import beside_the_window
from escalade_server.providers.signals import Vendor, judge
from tests.providers.candidates import candidate

FOLDER = Path(__file__).parent / "signals"
KEYS = {"row", "status", "headers", "near_window", "body", "is", "code", "scope", "reset"}
NOW_MS = 1_795_586_400_000  # Wednesday 2026-11-25, 06:00 UTC


@dataclass(frozen=True)
class Outcome:
    """What of a failure a row decides."""

    cls: FailureClass
    code: str
    scope: Scope | None
    reset_at_ms: int | None


@dataclass(frozen=True)
class Case:
    """One error of one vendor; status 0 is one inside a 2xx answer."""

    vendor: str
    row: str
    status: int
    headers: Mapping[str, str]
    body: object
    near_window: bool
    expected: Outcome

    @property
    def raw(self) -> bytes:
        """The body on the wire; text that is not JSON stands for itself."""
        return self.body.encode() if isinstance(self.body, str) else msgspec.json.encode(self.body)

    def judged(self, vendor: Vendor) -> Failure:
        """What the rules of a vendor say."""
        if self.status:
            evidence = error_body.read(self.status, self.headers, self.raw)
        else:
            evidence = error_body.examine(200, self.headers, self.body)
        model = candidate(self.vendor, "m").model
        full = dataclasses.replace(model, context_tokens=500 if self.near_window else 1_000)
        evidence = beside_the_window(evidence, Candidate(full, 600, 0, 100))
        return judge(vendor, evidence, NOW_MS)

    def outcome(self, vendor: Vendor) -> Outcome:
        """The same, as far as rows decide it."""
        failure = self.judged(vendor)
        return Outcome(failure.cls, failure.code, failure.scope, failure.reset_at_ms)


def reset_ms(value: object) -> int | None:
    """An offset in ms from now, or a date."""
    if value is None:
        return None
    if isinstance(value, int):
        return NOW_MS + value
    assert isinstance(value, datetime)
    return int(value.timestamp() * 1_000)


def cases() -> list[Case]:
    """Every case of every file."""
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        for entry in yaml.safe_load(path.read_text()):
            assert set(entry) <= KEYS, entry
            scope = entry.get("scope")
            expected = Outcome(
                FailureClass(entry["is"]),
                entry.get("code", ""),
                Scope(scope) if scope else None,
                reset_ms(entry.get("reset")),
            )
            found.append(
                Case(
                    path.stem,
                    entry["row"] or "null",
                    entry["status"],
                    entry.get("headers", {}),
                    entry["body"],
                    entry.get("near_window", False),
                    expected,
                )
            )
    return found
