"""What the API asks of whoever keeps the strategy in force, which is ``bootstrap``."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from escalade.v1 import operations_service_pb2 as wire
from escalade_server.api.convert_out import time_to_proto, wire_text


class Severity(Enum):
    """How grave a finding is, gravest first."""

    ERROR = wire.SEVERITY_ERROR
    ADVICE = wire.SEVERITY_ADVICE
    NOTE = wire.SEVERITY_NOTE


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found in a strategy; ``line`` 0 concerns the whole file."""

    severity: Severity
    code: str
    line: int
    message: str
    key: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class InForce:
    """The strategy in force, and what became of a file that was to take its place.

    Instants in Unix ms.
    """

    version: str = ""
    sha256: str = ""
    loaded_ms: int = 0
    not_in_effect: tuple[str, ...] = ()
    """Keys and values of the file that this server does not put into effect yet."""
    refused_count: int = 0
    refused_why: str = ""
    """Empty while the file, as it was last looked at, is in force."""
    refused_ms: int | None = None


class Reloaded(NamedTuple):
    """What became of a reload."""

    applied: bool
    findings: tuple[Finding, ...]


class Checked(NamedTuple):
    """What a check found."""

    valid: bool
    findings: tuple[Finding, ...]
    not_in_effect: tuple[str, ...]


class Strategies(Protocol):
    """Keeps the strategy in force."""

    @property
    def in_force(self) -> InForce:
        """The strategy in force."""
        ...

    async def reload(self) -> Reloaded:
        """Put the file as it is now in force, whole or not at all."""
        ...

    async def check(self, yaml: str | None) -> Checked:
        """Look at a text, or at the file, and change nothing."""
        ...


class Unchanging:
    """``Strategies`` of a server without a file: there is nothing to reload or to check."""

    in_force = InForce()

    async def reload(self) -> Reloaded:
        """Change nothing."""
        return Reloaded(applied=False, findings=(NO_FILE,))

    async def check(self, yaml: str | None) -> Checked:  # noqa: ARG002 - the protocol's
        """Look at nothing."""
        return Checked(valid=False, findings=(NO_FILE,), not_in_effect=())


NO_FILE = Finding(Severity.ERROR, "no_file", 0, "the service was started without a strategy file")


def info_to_proto(told: InForce, *, tells_why: bool) -> wire.StrategyInfo:
    """Describe the strategy in force; why a file was refused is an operator's to read."""
    return wire.StrategyInfo(
        version=told.version,
        sha256=told.sha256,
        loaded=time_to_proto(told.loaded_ms),
        not_in_effect=told.not_in_effect,
        refused_count=told.refused_count,
        refused_why=wire_text(told.refused_why) if tells_why else "",
        refused=time_to_proto(told.refused_ms),
    )


def findings_to_proto(findings: Iterable[Finding]) -> list[wire.Finding]:
    """List findings, gravest first."""
    ranked = sorted(findings, key=lambda finding: finding.severity.value)
    return [
        wire.Finding(
            severity=finding.severity.value,
            code=finding.code,
            line=finding.line,
            key=wire_text(finding.key),
            message=wire_text(finding.message),
            mend=wire_text(finding.mend),
        )
        for finding in ranked
    ]
