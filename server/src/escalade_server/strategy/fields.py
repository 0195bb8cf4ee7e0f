"""Annotated types of the model: how a written value becomes a number, and its JSON Schema."""

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    StrictBool,
    StrictStr,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from escalade_server.core.triggers import Trigger
from escalade_server.strategy import parse
from escalade_server.strategy.parse import ValueParseError

T = TypeVar("T")
Schema = dict[str, object]


def refusal(problem: str, allowed: str = "", mend: str = "") -> PydanticCustomError:
    """Make the error that the loader turns into one with a place."""
    context = {"problem": problem, "allowed": allowed, "mend": mend}
    return PydanticCustomError("strategy", "{problem}", context)


def lifted(parser: Callable[[object], T]) -> BeforeValidator:
    """Make a parser of ``parse.py`` a validator."""

    def validate(value: object) -> T:
        try:
            return parser(value)
        except ValueParseError as error:
            raise refusal(error.problem, error.allowed, error.mend) from None

    return BeforeValidator(validate)


def _rate_limit(value: object) -> object:
    """Turn the short form of a rate limit into the structured one."""
    if isinstance(value, int | Decimal):
        raise ValueParseError("a rate limit needs a period", parse.RATE_FORMS)
    if not isinstance(value, str):
        return value
    found = parse.rate(value)
    if found is None:
        return {}
    unit, period, amount = found
    return {f"{unit.value}_per_{period.value}": amount}


def _trigger(value: object, info: ValidationInfo) -> Trigger:
    """Parse one trigger against the layers of this file."""
    try:
        return parse.trigger(value, info.context["layers"] if info.context else [])
    except ValueParseError as error:
        raise refusal(error.problem, error.allowed, error.mend) from None


def _trigger_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _score_micro(value: object) -> int:
    return parse.micro(value, parse.SCORE_MAX)


def _weight_micro(value: object) -> int:
    return parse.micro(value, 10)


def _usd(value: object) -> Decimal:
    return parse.number(value, "dollars, as a number: 0.15")


def _depth(value: object) -> int:
    depth = parse.count(value)
    if depth > parse.SCORE_MAX:
        raise ValueParseError("the depth is too large", "a whole number from 0 to 10")
    return depth


def _start(value: object) -> int:
    allowed = "first, last, or a layer's number from 1"
    if isinstance(value, str):
        if value not in {"first", "last"}:
            raise ValueParseError("not a start", allowed)
        return 1 if value == "first" else -1
    layer = parse.count(value)
    if layer == 0:
        raise ValueParseError("layers are counted from 1", allowed)
    return layer


def _state(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


def _text_of(value: object) -> object:
    """Take a version also when it is written without quotes."""
    plain = isinstance(value, int | Decimal) and not isinstance(value, bool)
    return str(value) if plain else value


_NUMBER: Schema = {"type": "number", "minimum": 0}
_MONEY: Schema = {"anyOf": [_NUMBER, {"type": "string"}], "description": parse.MONEY_FORMS}
_DURATION: Schema = {"type": "string", "description": parse.DURATION_FORMS}
_LIMIT: Schema = {"anyOf": [{"type": "integer", "minimum": 0}, {"const": parse.UNLIMITED}]}
_PERCENT: Schema = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 100},
        {"type": "string", "pattern": "^[0-9]{1,3} *%$"},
    ]
}
_SCORE: Schema = {"type": "number", "minimum": 0, "maximum": parse.SCORE_MAX}
_TRIGGER: Schema = {"type": "string", "description": parse.TRIGGER_FORMS}
_TRIGGERS: Schema = {"anyOf": [_TRIGGER, {"type": "array", "items": _TRIGGER, "minItems": 1}]}
_START: Schema = {
    "anyOf": [{"enum": ["first", "last"]}, {"type": "integer", "minimum": 1}],
    "description": "the layer in which such a task starts (R1)",
}
_RESET: Schema = {"type": "string", "pattern": "^day +[0-9]{1,2}$"}

Flag = StrictBool
Name = Annotated[StrictStr, StringConstraints(min_length=1, max_length=200, pattern=r"^\S.*$")]
Word = Annotated[StrictStr, StringConstraints(min_length=1, max_length=100, pattern=r"^\S+$")]
AgentName = Annotated[StrictStr, StringConstraints(max_length=100, pattern=r"^[\x21-\x7e]+$")]
ProviderName = Annotated[
    StrictStr, StringConstraints(max_length=100, pattern=r"^[A-Za-z0-9][\w.-]*$")
]
LayerName = Annotated[StrictStr, StringConstraints(max_length=100, pattern=r"^[A-Za-z0-9][\w-]*$")]
Version = Annotated[StrictStr, BeforeValidator(_text_of), Field(description="1.x or 2.x (R34)")]
Count = Annotated[int, lifted(parse.count), WithJsonSchema({"type": "integer", "minimum": 0})]
Limit = Annotated[int | None, lifted(parse.limit), WithJsonSchema(_LIMIT)]
Money = Annotated[int | None, lifted(parse.money), WithJsonSchema(_MONEY)]
"""Nano-dollars; None is unlimited."""
DurationMs = Annotated[int, lifted(parse.duration), WithJsonSchema(_DURATION)]
Percent = Annotated[int, lifted(parse.percent), WithJsonSchema(_PERCENT)]
ScoreMicro = Annotated[int, lifted(_score_micro), WithJsonSchema(_SCORE)]
WeightMicro = Annotated[int, lifted(_weight_micro), WithJsonSchema(_SCORE)]
ResetDay = Annotated[int, lifted(parse.reset_day), WithJsonSchema(_RESET)]
Usd = Annotated[Decimal, lifted(_usd), WithJsonSchema(_NUMBER)]
Depth = Annotated[
    int, lifted(_depth), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 10})
]
Start = Annotated[int, lifted(_start), WithJsonSchema(_START)]
"""A layer's number from 1; -1 is the last."""
RateForm = lifted(_rate_limit)
StateForm = lifted(_state)
Triggers = Annotated[
    list[Annotated[Trigger, PlainValidator(_trigger)]],
    BeforeValidator(_trigger_list),
    Field(min_length=1),
    WithJsonSchema(_TRIGGERS),
]
