"""Why a model of the file is not usable on this server."""

from dataclasses import dataclass
from enum import Enum


class AbsenceKind(Enum):
    """Why a model of the file cannot be called by this server."""

    NO_KEY = "no_key"
    NOT_BUILT = "not_built"


@dataclass(frozen=True, slots=True)
class Absence:
    """A model that is in the file but not usable here, with the sentence that says why."""

    kind: AbsenceKind
    detail: str
