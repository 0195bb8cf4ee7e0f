"""Safe YAML 1.2 (core types) with the place of every key and value (faults G1-G3, G12, G14).

Only these become something else than text: ``null ~``, ``true false``, whole numbers (also ``0x``
and ``0o``) and decimals, which are kept exact as ``Decimal``. So ``on`` and ``12:30`` are text,
``010`` is ten and ``1e3`` a thousand. Tags, duplicate keys and keys without a value are errors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from escalade_server.strategy.errors import (
    Path,
    StrategyError,
    StrategyErrors,
    dotted,
)

SIZE_BYTES_MAX = 1 << 20
ALIASES_MAX = 50
VALUES_MAX = 50_000
FOUND_CHARACTERS_MAX = 60
TAG = "tag:yaml.org,2002:"
WHOLE = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
DIGITS_MAX = 40

Scalar = str | int | bool | Decimal | None
Value = Scalar | list["Value"] | dict[str, "Value"]


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a value stands; ``text`` is what is written there, shortened, before placeholders."""

    line: int
    column: int
    text: str = ""


@dataclass(slots=True)
class Document:
    """A file as plain values, with the places of its keys and values."""

    file: str
    root: dict[str, Value] = field(default_factory=dict)
    values: dict[Path, Spot] = field(default_factory=dict)
    keys: dict[Path, Spot] = field(default_factory=dict)

    def spot(self, path: Path) -> Spot:
        """Find the place of a value, or of the nearest thing around it."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Spot(1, 1))

    def key_spot(self, path: Path) -> Spot:
        """Find the place of a key; list items have the place of their value."""
        while path and path not in self.values:
            path = path[:-1]
        return self.keys.get(path) or self.spot(path)

    def line(self, path: Path) -> int:
        """Find the line of a key; 0 if it is not in the file."""
        return self.key_spot(path).line if path in self.values else 0

    def error(
        self, path: Path, problem: str, found: str = "", allowed: str = "", mend: str = ""
    ) -> StrategyError:
        """Make an error at the value of a path."""
        spot = self.spot(path)
        return StrategyError(
            self.file, spot.line, spot.column, dotted(path), problem, found, allowed, mend
        )


class CoreResolver(BaseResolver):
    """Decides what an untagged scalar is, by the core schema of YAML 1.2."""


CoreResolver.add_implicit_resolver(
    TAG + "null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
CoreResolver.add_implicit_resolver(
    TAG + "bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
CoreResolver.add_implicit_resolver(TAG + "int", WHOLE, list("-+0123456789"))
CoreResolver.add_implicit_resolver(
    TAG + "float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


class NodeLoader(Reader, Scanner, Parser, Composer, CoreResolver):
    """Text to nodes, and no further: nothing is ever constructed from a tag (G2)."""

    def __init__(self, stream: str | bytes) -> None:
        Reader.__init__(self, stream)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        CoreResolver.__init__(self)
        self.aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node; refuse the alias that is one too many (G12)."""
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > ALIASES_MAX:
                problem = f"more than {ALIASES_MAX} aliases"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())
        return super().compose_node(parent, index)


def shorten(text: str) -> str:
    """Cut what is shown of a value to one short line."""
    line = " ".join(text.split())
    if len(line) > FOUND_CHARACTERS_MAX:
        return line[: FOUND_CHARACTERS_MAX - 3] + "..."
    return line


class Builder:
    """Turns composed nodes into a ``Document`` and collects every error on the way."""

    def __init__(self, file: str, environ: Mapping[str, str]) -> None:
        self.document = Document(file)
        self.environ = environ
        self.errors: list[StrategyError] = []
        self.resolver = CoreResolver()
        self.open: list[yaml.Node] = []
        self.count = 0

    def fail(
        self, node: yaml.Node, path: Path, problem: str, found: str = "", mend: str = ""
    ) -> None:
        """Note an error at a node."""
        mark = node.start_mark
        where = (self.document.file, mark.line + 1, mark.column + 1, dotted(path))
        self.errors.append(StrategyError(*where, problem, found, mend=mend))

    def build(self, node: yaml.Node, path: Path) -> Value:
        """Build the value of one node, and remember where it stands."""
        self.count += 1
        if self.count > VALUES_MAX:
            self.fail(node, path, f"the file holds more than {VALUES_MAX} values")
            raise StrategyErrors(self.errors)
        if any(parent is node for parent in self.open):
            self.fail(node, path, "an alias holds itself", mend="write the values out")
            return None
        mark = node.start_mark
        shown = shorten(node.value) if isinstance(node, yaml.ScalarNode) else ""
        self.document.values[path] = Spot(mark.line + 1, mark.column + 1, shown)
        self.open.append(node)
        try:
            return self.build_inner(node, path)
        finally:
            self.open.pop()

    def build_inner(self, node: yaml.Node, path: Path) -> Value:
        """Build by the kind of the node."""
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if node.tag not in {TAG + "map", TAG + "seq"}:
            self.fail(node, path, "tags are not allowed", shorten(node.tag), "remove the tag")
            return None
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self.mapping(node, path)

    def mapping(self, node: yaml.Node, path: Path) -> dict[str, Value]:
        """Build a mapping; a key is text, stands once and has a value (G1, G4)."""
        result: dict[str, Value] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != TAG + "str":
                text = shorten(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
                self.fail(key_node, path, "a key must be text", text, "put it into quotes")
                continue
            key = key_node.value
            here = (*path, key)
            if key in result:
                first = self.document.keys[here].line
                mend = f'"{key}" stands already on line {first}: keep one of the two'
                self.fail(key_node, here, "duplicate key", f'"{key}"', mend)
                continue
            mark = key_node.start_mark
            self.document.keys[here] = Spot(mark.line + 1, mark.column + 1, key)
            result[key] = self.build(value_node, here)
        return result

    def scalar(self, node: yaml.ScalarNode, path: Path) -> Scalar:
        """Build a scalar: placeholders first, then its core type."""
        text, tag = self.filled(node, path), node.tag
        if text != node.value and node.style is None:
            tag = self.resolver.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        if tag == TAG + "null":
            self.fail(node, path, "the key has no value", "nothing", "give it one, or remove it")
            return None
        if tag == TAG + "str":
            return text
        if tag not in {TAG + "bool", TAG + "int", TAG + "float"}:
            self.fail(node, path, "tags are not allowed", shorten(tag), "remove the tag")
            return None
        try:
            return typed(text, tag)
        except ValueError as error:
            self.fail(node, path, str(error), shorten(node.value))
            return None

    def filled(self, node: yaml.ScalarNode, path: Path) -> str:
        """Replace ``${NAME}`` by the environment's value; an unset one is an error (G14)."""
        text: str = node.value
        for name in PLACEHOLDER.findall(text):
            if name not in self.environ:
                found = "${" + shorten(name) + "}"
                mend = f"set {shorten(name)} in the environment, or write the value"
                self.fail(node, path, "the placeholder is not set", found, mend)
        return PLACEHOLDER.sub(lambda found: self.environ.get(found[1], found[0]), text)


def typed(text: str, tag: str) -> Scalar:
    """Convert text to the core type that its tag names.

    Raises:
        ValueError: the text is none of that type, or too large a number.
    """
    if tag == TAG + "bool":
        if text.lower() not in {"true", "false"}:
            raise ValueError("not true or false")
        return text.lower() == "true"
    if len(text) > DIGITS_MAX:
        raise ValueError("the number is out of range")
    if tag == TAG + "int":
        if not WHOLE.fullmatch(text):
            raise ValueError("not a whole number")
        return int(text, 0) if text.startswith(("0x", "0o")) else int(text)
    try:
        number = Decimal(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    except InvalidOperation:
        raise ValueError("not a number") from None
    if number.is_finite() and number and abs(number.adjusted()) > DIGITS_MAX:
        raise ValueError("the number is out of range")
    return number


def parse(text: str | bytes, file: str, environ: Mapping[str, str]) -> Document:
    """Read one YAML document.

    Raises:
        StrategyErrors: with everything that is wrong with it as YAML.
    """
    if len(text if isinstance(text, bytes) else text.encode()) > SIZE_BYTES_MAX:
        mend = "a strategy has at most 1 MiB"
        raise StrategyErrors([StrategyError(file, 1, 1, "", "the file is too large", mend=mend)])
    builder = Builder(file, environ)
    try:
        node = NodeLoader(text).get_single_node()
        root = builder.build(node, ()) if node is not None else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StrategyErrors([syntax_error(file, error)]) from None
    except RecursionError:
        problem = "the file is nested too deeply"
        raise StrategyErrors([StrategyError(file, 1, 1, "", problem)]) from None
    if not builder.errors and not isinstance(root, dict):
        problem = "the file holds no strategy"
        mend = "start it with `fallback_strategy:`"
        builder.errors.append(StrategyError(file, 1, 1, "", problem, mend=mend))
    if builder.errors or not isinstance(root, dict):
        raise StrategyErrors(builder.errors)
    builder.document.root = root
    return builder.document


def syntax_error(file: str, error: Exception) -> StrategyError:
    """Word what the YAML parser says, without the text around it."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = error.problem or error.context or ""
        mend = "indent with spaces, not with tabs" if "'\\t'" in problem else ""
        return StrategyError(file, line, column, "", f"not YAML: {problem}", mend=mend)
    if isinstance(error, ReaderError):
        problem = f"not YAML: {error.reason} at character {error.position}"
        return StrategyError(file, 1, 1, "", problem, mend="save the file as UTF-8 text")
    return StrategyError(file, 1, 1, "", "not text in UTF-8", mend="save the file as UTF-8")
