"""The least JSON value that fits a schema, so that a simulated model can answer in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

DEPTH_MAX = 32
FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "a@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.org",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def instance_of(schema: object, word: str) -> object:
    """Returns a small value of `schema`; free strings are `word`, so that one sees who wrote it.

    Required properties only, least items and numbers, the first branch of a choice. `pattern` and
    `not` are not obeyed. Without a schema: `{"answer": word}`.
    """
    if schema is None:
        return {"answer": word}
    return Maker(schema, word).make(schema, 0)


class Maker:
    """Makes values for one schema document."""

    __slots__ = ("root", "word")

    def __init__(self, root: object, word: str) -> None:
        """Keeps the document, for its references."""
        self.root = root
        self.word = word

    def make(self, schema: object, depth: int) -> object:
        """A value of `schema`; null where a recursive schema never ends."""
        if not isinstance(schema, Mapping):
            return self.word
        if depth > DEPTH_MAX:
            return None
        if "$ref" in schema:
            return self.make(self.resolve(str(schema["$ref"])), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return sequence(schema["enum"])[0]
        if "allOf" in schema:
            return self.make(self.merged(schema), depth + 1)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self.make(self.branch(sequence(schema[choice]), depth), depth + 1)
        return self.of_type(schema, depth)

    def of_type(self, schema: Mapping[str, object], depth: int) -> object:
        """A value by the schema's `type`, guessed from its keywords when it is not stated."""
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if not isinstance(kind, str):
            kind = sequence(kind)[0]
        match kind:
            case "object":
                properties = mapping(schema.get("properties"))
                required = [str(name) for name in sequence(schema.get("required", ()))]
                return {name: self.make(properties.get(name), depth + 1) for name in required}
            case "array":
                least = number(schema.get("minItems"), 0)
                return [self.make(schema.get("items"), depth + 1) for _ in range(int(least))]
            case "integer":
                return int(-(-least_number(schema) // 1))
            case "number":
                return least_number(schema)
            case "boolean":
                return False
            case "null":
                return None
            case _:
                return self.string(schema)

    def string(self, schema: Mapping[str, object]) -> str:
        """The word, or a value of the stated format, within the stated lengths."""
        text = FORMATS.get(str(schema.get("format")), self.word)
        text = text.ljust(int(number(schema.get("minLength"), 0)), ".")
        return text[: int(number(schema.get("maxLength"), len(text)))]

    def resolve(self, reference: str) -> object:
        """The part of the document that a local reference names; None if there is none."""
        found = self.root
        for step in reference.removeprefix("#").split("/"):
            if step:
                key = step.replace("~1", "/").replace("~0", "~")
                found = mapping(found).get(key)
        return found

    def merged(self, schema: Mapping[str, object]) -> Mapping[str, object]:
        """All parts of an `allOf` in one schema."""
        properties = dict(mapping(schema.get("properties")))
        required = [*sequence(schema.get("required", ()))]
        whole = {key: value for key, value in schema.items() if key != "allOf"}
        for part in sequence(schema["allOf"]):
            fields = mapping(part)
            if "$ref" in fields:
                fields = mapping(self.resolve(str(fields["$ref"])))
            properties |= mapping(fields.get("properties"))
            required += sequence(fields.get("required", ()))
            whole |= fields
        if properties:
            whole |= {"properties": properties, "required": required}
        return whole

    def branch(self, branches: Sequence[object], depth: int) -> object:
        """The first branch; deep down one that ends, if there is one."""
        if depth > DEPTH_MAX // 4:
            for branch in branches:
                if mapping(branch).get("type") not in {None, "object", "array"}:
                    return branch
        return branches[0]


def least_number(schema: Mapping[str, object]) -> float:
    """The number nearest to the lower bound, zero if it is allowed."""
    least = number(schema.get("minimum"), 0)
    if "exclusiveMinimum" in schema:
        least = max(least, number(schema["exclusiveMinimum"], 0) + 1)
    most = number(schema.get("maximum", schema.get("exclusiveMaximum")), least)
    if "minimum" in schema or "exclusiveMinimum" in schema:
        value = least
    else:
        value = min(0, most - ("exclusiveMaximum" in schema))
    step = number(schema.get("multipleOf"), 0)
    return -(-value // step) * step if step else value


def number(value: object, otherwise: float) -> float:
    """The value if it is a number."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return value if good else otherwise  # type: ignore[return-value]


def mapping(value: object) -> Mapping[str, object]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[object]:
    """The value if it is an array, else an array of it."""
    return value if isinstance(value, list | tuple) and value else (value,) if value else ()
