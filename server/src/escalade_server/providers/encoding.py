"""What the encoders of all dialects share: refusals, a caller's JSON, ids, owners of state."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Final, TypeVar

import msgspec

from escalade_server.core.commands import Candidate
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.task import (
    FormatKind,
    Image,
    Message,
    Part,
    ProviderState,
    ResponseFormat,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from escalade_server.engine.ports import ProviderFailure
from escalade_server.providers import bounded_json

Json = dict[str, object]
T = TypeVar("T")
Place = Annotated[int, msgspec.Meta(ge=0)]
"""Where something stood in an answer. From the end it would be said over and over."""

EMPTY_SCHEMA: Final = msgspec.Raw(b'{"type":"object","properties":{}}')

_CONTENT: Final = (Text, Image, ToolCall, ToolResult)
_BELONGS: Final[Mapping[Role, tuple[type[Part], ...]]] = MappingProxyType(
    {
        Role.SYSTEM: (Text,),
        Role.USER: (Text, Image, ToolResult),
        Role.ASSISTANT: (Text, ToolCall),
        Role.TOOL: (ToolResult,),
    }
)


def state_owner(candidate: Candidate) -> str:
    """Whose state it is: a model at a vendor, whatever the account."""
    return f"{candidate.model.provider}/{candidate.model.wire_id}"


def own_state(
    parts: Iterable[Part], dialect: str, owner: str, decoder: msgspec.json.Decoder[T]
) -> T | None:
    """What a turn kept for this very model; another's is not looked at (DESIGN 6).

    A caller brings it back: what it cannot have been told counts as nothing kept.
    """
    for part in parts:
        if isinstance(part, ProviderState) and (part.dialect, part.model) == (dialect, owner):
            try:
                return bounded_json.decode_as(decoder, part.data)
            except ValueError:
                return None
    return None


def refuse(detail: str) -> ProviderFailure:
    """The request has no form in a dialect; nothing was sent."""
    return ProviderFailure(Failure(FailureClass.BAD_REQUEST, detail, sent=False))


def check_places(message: Message) -> None:
    """Check that content stands where a model of any vendor would look for it.

    Raises:
        ProviderFailure: BAD_REQUEST, not sent: leaving a part out would change what was said.
    """
    allowed = _BELONGS[message.role]
    if any(isinstance(part, _CONTENT) and not isinstance(part, allowed) for part in message.parts):
        raise refuse(f"a {message.role.value} message holds a part that does not belong there")


def raw_json(text: str, what: str) -> tuple[msgspec.Raw, object]:
    """Check a caller's JSON to be one whole value: it must not close a brace that is not its own.

    Returns:
        It verbatim, and decoded.

    Raises:
        ProviderFailure: BAD_REQUEST, not sent.
    """
    data = text.encode()
    try:
        return msgspec.Raw(data), bounded_json.decode(data)
    except ValueError:
        raise refuse(f"{what} is not JSON, nests too deeply, or holds a key twice") from None


def json_object(text: str) -> msgspec.Raw:
    """The arguments of a call as an object, for dialects that take nothing else.

    A model's broken arguments are kept as text in one (U27): they are part of what happened.
    """
    data = text.encode()
    try:
        if isinstance(bounded_json.decode(data), dict):
            return msgspec.Raw(data)
    except ValueError:
        pass
    return msgspec.Raw(msgspec.json.encode({"arguments": text}) if text.strip() else b"{}")


def call_id(given: str, allowed: re.Pattern[str], prefix: str) -> str:
    """Another vendor's id, if it fits; else one made of it, the same for call and result."""
    if allowed.fullmatch(given):
        return given
    return f"{prefix}{hashlib.sha256(given.encode()).hexdigest()[:24]}"


def joined_text(parts: Sequence[Part]) -> str:
    """The text of an earlier turn, in one piece as it was streamed."""
    return "".join(part.text for part in parts if isinstance(part, Text))


def told_form(wanted: ResponseFormat) -> str:
    """Ask for a form of answer in words, where the dialect has no better way."""
    if wanted.kind is not FormatKind.JSON_SCHEMA:
        return "Answer with one JSON object and nothing else: no prose, no code fence."
    raw_json(wanted.schema_json, "the schema of the answer")
    return (
        "Answer with one JSON value that fits the JSON schema below and with nothing else: "
        f"no prose, no code fence.\n\n{wanted.schema_json}"
    )
