"""Whether an answer passes the gates that were demanded of it (R21).

No failure quotes the answer or the schema: details go into events, logs and reports. Patterns and
schemas run on linear-time regular expressions and fetch nothing, since a request brings schemas.
"""

from collections.abc import Callable, Mapping

import msgspec
from jsonschema_rs import RegexOptions, ValidationError, Validator, validator_for

from escalade_server.core.gates import Demands, Gate, GateFailure
from escalade_server.core.task import FinishReason, FormatKind, Request, Text, ToolCall
from escalade_server.core.trace import Answer

Schema = dict[str, object] | bool
SCHEMA_BYTES_MAX = 256 << 10
_REFUSALS = (FinishReason.REFUSAL, FinishReason.CONTENT_FILTER)
_NOTHING = "not shown"


class AnswerGates:
    """``AnswerChecker`` of the engine."""

    def check(self, request: Request, answer: Answer, demands: Demands) -> GateFailure | None:
        """Answer the first failed gate, in the order of ``Gate``; None when all hold.

        ``TRUNCATED`` is taken at its word: whether the model's own limit cut is known to the core.
        """
        for gate in demands.held_by:
            detail = _CHECKS[gate](request, answer, demands)
            if detail:
                return GateFailure(gate, detail)
        return None

    def refusal(self, request: Request) -> str:
        """Say why the schema of a request cannot be checked against; nothing when it can."""
        wanted = request.response_format
        if wanted.kind is not FormatKind.JSON_SCHEMA:
            return ""
        made = _schema(wanted.schema_json)
        return made if isinstance(made, str) else ""


def pattern_error(pattern: str) -> str:
    """Say why a pattern of a strategy cannot be used; nothing when it can."""
    made = _validator({"pattern": pattern})
    return "" if isinstance(made, Validator) else "not a regular expression of linear time"


def _validator(schema: Schema) -> Validator | None:
    try:
        return validator_for(schema, pattern_options=RegexOptions(), mask=_NOTHING, offline=True)
    except (ValidationError, ValueError, RecursionError):
        return None


def _schema(schema_json: str) -> Validator | str:
    if len(schema_json) > SCHEMA_BYTES_MAX:
        return f"is larger than {SCHEMA_BYTES_MAX >> 10} KiB"
    schema = _json(schema_json)
    if not isinstance(schema, dict | bool):
        return "is no JSON schema: neither an object nor a boolean"
    return _validator(schema) or "is no valid JSON schema, or refers to something outside itself"


def _json(text: str) -> object:
    """Read strict JSON; ``_NO_JSON`` when it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return _NO_JSON


_NO_JSON = object()


def _text(answer: Answer) -> str | None:
    """The text of an answer; None when it is tool calls alone, which no gate of text is for."""
    texts = [part.text for part in answer.parts if isinstance(part, Text)]
    calls = any(isinstance(part, ToolCall) for part in answer.parts)
    return None if calls and not "".join(texts).strip() else "".join(texts)


def _truncated(_request: Request, answer: Answer, _demands: Demands) -> str:
    return "was cut by the model's limit" if answer.finish is FinishReason.LENGTH else ""


def _refusal(_request: Request, answer: Answer, _demands: Demands) -> str:
    return f"was a {answer.finish.value}" if answer.finish in _REFUSALS else ""


def _invalid_json(request: Request, answer: Answer, _demands: Demands) -> str:
    text = _text(answer)
    if request.response_format.kind is FormatKind.TEXT or text is None:
        return ""
    return "was no JSON" if _json(text) is _NO_JSON else ""


def _json_schema(request: Request, answer: Answer, _demands: Demands) -> str:
    text, wanted = _text(answer), request.response_format
    if wanted.kind is not FormatKind.JSON_SCHEMA or text is None:
        return ""
    value, schema = _json(text), _schema(wanted.schema_json)
    if value is _NO_JSON:
        return "was no JSON"
    if isinstance(schema, str):
        return ""  # refused before the task began
    error = next(schema.iter_errors(value), None)
    if error is None:
        return ""
    return f"broke the schema's {error.kind.name}"


def _tool_call(request: Request, answer: Answer, _demands: Demands) -> str:
    offered = {tool.name for tool in request.tools}
    for call in answer.parts:
        if isinstance(call, ToolCall):
            if call.name not in offered:
                return "called a tool that was not offered"
            if not isinstance(_json(call.arguments_json or "{}"), dict):
                return f"called {call.name} with arguments that are no JSON object"
    return ""


def _too_short(_request: Request, answer: Answer, demands: Demands) -> str:
    text = _text(answer)
    if text is None or len(text.strip()) >= demands.shortest_characters:
        return ""
    return f"had {len(text.strip())} of at least {demands.shortest_characters} characters"


def _pattern(_request: Request, answer: Answer, demands: Demands) -> str:
    text = _text(answer)
    if text is None:
        return ""
    for pattern in demands.patterns:
        found = _validator({"pattern": pattern})
        if found is not None and not found.is_valid(text):
            return "lacked a pattern of the strategy"
    missing = sum(literal not in text for literal in demands.literals)
    return f"lacked {missing} of {len(demands.literals)} words asked for" if missing else ""


_CHECKS: Mapping[Gate, Callable[[Request, Answer, Demands], str]] = {
    Gate.TRUNCATED: _truncated,
    Gate.REFUSAL: _refusal,
    Gate.INVALID_JSON: _invalid_json,
    Gate.JSON_SCHEMA: _json_schema,
    Gate.TOOL_CALL: _tool_call,
    Gate.TOO_SHORT: _too_short,
    Gate.PATTERN: _pattern,
}
