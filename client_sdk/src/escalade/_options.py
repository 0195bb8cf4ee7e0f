"""What holds for every call of a client, or of a view of it, unless the call says otherwise."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from escalade._convert import seconds_of
from escalade._errors import UsageError
from escalade._types import Constraints

KEY = re.compile(r"[a-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Options:
    """The defaults of calls."""

    timeout_s: float | None = None
    constraints: Constraints | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)

    def with_more(
        self,
        timeout: float | None,
        constraints: Constraints | None,
        metadata: Mapping[str, str] | None,
    ) -> "Options":
        """Lay further options over these.

        Raises:
            UsageError: A timeout that is none, or metadata that cannot travel.
        """
        return replace(
            self,
            timeout_s=self.timeout_of(timeout),
            constraints=self.constraints_of(constraints),
            metadata={**self.metadata, **_checked(metadata or {})},
        )

    def timeout_of(self, timeout: float | None) -> float | None:
        """The timeout of a call, in seconds."""
        return seconds_of(timeout) or self.timeout_s

    def constraints_of(self, constraints: Constraints | None) -> Constraints | None:
        """The limits of a call: its own, and for what those leave open, these."""
        if constraints is None or self.constraints is None:
            return constraints or self.constraints
        merged = self.constraints
        for one in fields(constraints):
            said = getattr(constraints, one.name)
            if said != one.default:
                merged = replace(merged, **{one.name: said})
        return merged


def _checked(metadata: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in metadata.items():
        if not KEY.fullmatch(key) or key.endswith("-bin") or key.startswith("grpc-"):
            raise UsageError(f"metadata cannot be named {key!r}: lower case, not grpc- nor -bin")
        if key == "authorization":
            raise UsageError("the token is given as token=, so that it is never sent in the clear")
        if not (value.isascii() and value.isprintable()):
            raise UsageError(f"the metadata {key!r} holds signs that cannot travel")
    return metadata
