"""From a document to the typed model: every error with its place, what is allowed, and the mend."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from escalade_server.core.catalog import DEFAULT_ACCOUNT
from escalade_server.strategy.agents import check_agents
from escalade_server.strategy.errors import (
    Path,
    StrategyError,
    StrategyErrors,
    did_you_mean,
    dotted,
)
from escalade_server.strategy.model import SECTION_NAMES, StrategyFile
from escalade_server.strategy.vendors import VENDORS
from escalade_server.strategy.yaml_nodes import Document, Value, shorten

TOP = "fallback_strategy"
SENSITIVE = re.compile(r"^(?:api_key|token|url|base_url|secret|password)(?:_env|_file)?$")
RESERVED = {"agent", "layer", "provider", "strategy"}
PLAIN_PROBLEMS = {
    "model_type": ("a mapping is needed", "keys with values", ""),
    "dict_type": ("a mapping is needed", "names with values", ""),
    "list_type": ("a list is needed", "[one, two]", ""),
    "string_type": ("text is needed", "", "put it into quotes"),
    "bool_type": ("true or false is needed", "true, false", "write it without quotes"),
    "too_short": ("the list is empty", "one entry or more", ""),
    "string_too_short": ("the text is empty", "", ""),
    "string_too_long": ("the text is too long", "", ""),
    "string_pattern_mismatch": ("not a name", "letters, digits, - and _, without blanks", ""),
}
MENDS = {
    "api_key": "keys do not belong into this file: use api_key_env or api_key_file",
    "token": "tokens are made by `escalade token create`, and stand in no file",
    "<<": "merge keys are not part of YAML 1.2: write the values out",
    "layers": f"put it under `{TOP}:`",
}


def validate(document: Document) -> StrategyFile:
    """Check a document against the model and across its parts.

    Raises:
        StrategyErrors: with everything that is wrong.
    """
    layers = [entry for _, entry in raw_layers(document)]
    context = {"layers": [entry["name"] for entry in layers if isinstance(entry.get("name"), str)]}
    errors = list(crosscheck(document))
    try:
        file = StrategyFile.model_validate(document.root, context=context)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise StrategyErrors([*errors, *(translated(document, one) for one in details)]) from None
    if errors:
        raise StrategyErrors(errors)
    return file


def translated(document: Document, detail: ErrorDetails) -> StrategyError:
    """Turn one error of pydantic into one of ours."""
    path: Path = tuple(step for step in detail["loc"] if step != "[key]")
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(document, path)
    if kind == "missing":
        spot = document.spot(path[:-1])
        where = (document.file, spot.line, spot.column, dotted(path))
        return StrategyError(*where, "the key is missing", mend=f"add `{path[-1]}:`")
    found = found_text(document, path)
    if kind == "strategy":
        return document.error(path, context["problem"], found, context["allowed"], context["mend"])
    if kind in {"enum", "literal_error"}:
        allowed = re.findall(r"'([^']*)'", str(context["expected"]))
        meant = did_you_mean(str(value_at(document, path)), allowed)
        return document.error(path, "not a known value", found, ", ".join(allowed), meant)
    problem, allowed_text, mend = PLAIN_PROBLEMS.get(kind, (detail["msg"], "", ""))
    return document.error(path, problem, found, allowed_text, mend)


def unknown_key(document: Document, path: Path) -> StrategyError:
    """Refuse a key with the nearest known one; a typo in a cap must not mean "no cap" (G4)."""
    key, spot = str(path[-1]), document.key_spot(path)
    known = known_keys(StrategyFile, path[:-1])
    mend = MENDS.get(key) or did_you_mean(key, known)
    elsewhere = dict.fromkeys(homes(StrategyFile, key))
    longer = [f"`{name}:`" for name in known if name.startswith(f"{key}_")]
    if longer and key not in MENDS:
        mend = f"write {' or '.join(longer)}"
    elif elsewhere and key not in MENDS:
        mend = f"it belongs into {' or '.join(f'`{home}:`' for home in elsewhere)}"
    allowed = "" if mend else ", ".join(known)
    where = (document.file, spot.line, spot.column, dotted(path))
    return StrategyError(*where, "unknown key", f'"{shorten(key)}"', allowed, mend)


def known_keys(model: type[BaseModel], path: Path) -> list[str]:
    """List the keys that the model knows at a path."""
    here: type[BaseModel] | None = model
    rest = list(path)
    while rest and here is not None:
        field = here.model_fields.get(str(rest.pop(0)))
        if field is None:
            return []
        here, depth = _section(field.annotation)
        del rest[:depth]
    return list(here.model_fields) if here is not None else []


def homes(model: type[BaseModel], key: str) -> Iterable[str]:
    """List the sections that know a key, by their names, wherever they stand."""
    for name, field in model.model_fields.items():
        section, _ = _section(field.annotation)
        if section is not None:
            if key in section.model_fields:
                yield name
            yield from homes(section, key)


def _section(annotation: object, depth: int = 0) -> tuple[type[BaseModel] | None, int]:
    """Find the section inside a type, and how many steps of a path lead into it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, depth
    is_container = getattr(annotation, "__origin__", None) in {list, dict}
    for argument in get_args(annotation):
        found, steps = _section(argument, depth + is_container)
        if found is not None:
            return found, steps
    return None, depth


def value_at(document: Document, path: Path) -> object:
    """Find the value at a path, or None."""
    here: Value = document.root
    for step in path:
        if isinstance(here, dict) and isinstance(step, str):
            here = here.get(step)
        elif isinstance(here, list) and isinstance(step, int):
            here = here[step] if step < len(here) else None
        else:
            return None
    return here


def found_text(document: Document, path: Path) -> str:
    """Show what was found, but never what may be a secret (D6, G9)."""
    value = value_at(document, path)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = document.spot(path).text
    names = [step for step in path if isinstance(step, str)]
    if names and SENSITIVE.search(names[-1]):
        return f"{len(text)} characters, not shown"
    return f'"{text}"'


# ------------------------------------------------------------------ what no single value can say


def raw_layers(document: Document) -> list[tuple[Path, dict[str, Value]]]:
    """List the layers as written, with their paths."""
    return _mappings(document, (TOP, "layers"))


def _mappings(document: Document, path: Path) -> list[tuple[Path, dict[str, Value]]]:
    items = value_at(document, path)
    if not isinstance(items, list):
        return []
    return [((*path, i), item) for i, item in enumerate(items) if isinstance(item, dict)]


def crosscheck(document: Document) -> Iterable[StrategyError]:
    """Check what spans several keys, on the file as written, so that no error hides another."""
    models = [
        (path, entry)
        for layer, _ in raw_layers(document)
        for path, entry in _mappings(document, (*layer, "models"))
    ]
    yield from twice(document, raw_layers(document), "two layers have one name", layer_name)
    yield from twice(document, raw_layers(document), "two layers have one priority", layer_priority)
    spread = list(on_accounts(document, models))
    yield from twice(document, spread, "the model stands in the file twice", model_identity)
    for path, entry in [((TOP,), document.root.get(TOP)), *raw_layers(document), *models]:
        if isinstance(entry, dict):
            yield from exclusive(document, path, "monthly_cap", "monthly_budget")
    yield from beside_and_inside(document)
    yield from check_providers(document, models)
    yield from check_accounts(document, models)
    yield from check_baseline(document, models)
    layers = [
        name for _, layer in raw_layers(document) if isinstance(name := layer.get("name"), str)
    ]
    stated = raw_section(document, "agents")
    yield from check_agents(document, stated, layers, [entry for _, entry in spread])


Identity = tuple[str, object]
"""The key at which a doublet is reported, and what must not stand twice."""


def layer_name(_: Path, layer: Mapping[str, Value]) -> Identity:
    """A layer is known by its name; what is no name is told elsewhere."""
    name = layer.get("name")
    return "name", name if isinstance(name, str) else None


def layer_priority(path: Path, layer: Mapping[str, Value]) -> Identity:
    """A layer without a priority has its place in the file for one."""
    place = path[-1]
    assert isinstance(place, int)
    stated = layer.get("priority", place + 1)
    return "priority", stated if isinstance(stated, int | Decimal) else None


def model_identity(_: Path, model: Mapping[str, Value]) -> Identity:
    """The same model on two accounts is two models (R34)."""
    parts = (model.get("provider"), model.get("account"), model.get("model"))
    return "model", parts if all(isinstance(part, str) for part in parts) else None


def twice(
    document: Document,
    entries: Sequence[tuple[Path, dict[str, Value]]],
    problem: str,
    identify: Callable[[Path, Mapping[str, Value]], Identity],
) -> Iterable[StrategyError]:
    """Find entries with the same identity (G11, R34)."""
    seen: dict[object, Path] = {}
    told: set[Path] = set()
    for path, entry in entries:
        key, identity = identify(path, entry)
        if identity is None or path in told:
            continue
        if identity in seen:
            told.add(path)
            line = document.line((*seen[identity], key)) or document.line(seen[identity])
            shown = found_text(document, (*path, key)) if key in entry else f'"{identity}"'
            mend = f"the first stands on line {line}: change or remove one"
            yield document.error((*path, key), problem, shown, mend=mend)
        else:
            seen[identity] = path


def exclusive(document: Document, path: Path, first: str, second: str) -> Iterable[StrategyError]:
    """Refuse two keys that say the same thing."""
    entry = value_at(document, path)
    if isinstance(entry, dict) and first in entry and second in entry:
        mend = f"keep it or {first} on line {document.line((*path, first))}"
        yield document.error((*path, second), f"{first} says the same", mend=mend)


def beside_and_inside(document: Document) -> Iterable[StrategyError]:
    """Refuse a section that stands both inside ``fallback_strategy`` and beside it."""
    inside = document.root.get(TOP)
    for name in SECTION_NAMES:
        if isinstance(inside, dict) and name in inside and name in document.root:
            line = document.line((TOP, name))
            mend = f"it stands also inside {TOP}, on line {line}: keep one"
            yield document.error((name,), "the section stands twice", mend=mend)


def raw_providers(document: Document) -> dict[str, tuple[Path, dict[str, Value]]]:
    """List the providers of the file, wherever the section stands."""
    return raw_section(document, "providers")


def raw_section(document: Document, title: str) -> dict[str, tuple[Path, dict[str, Value]]]:
    """List the named entries of a section, wherever it stands, with their paths."""
    found = {}
    for path in ((title,), (TOP, title)):
        section = value_at(document, path)
        if isinstance(section, dict):
            for name, entry in section.items():
                if isinstance(entry, dict):
                    found[name] = ((*path, name), entry)
    return found


def check_providers(
    document: Document, models: Sequence[tuple[Path, dict[str, Value]]]
) -> Iterable[StrategyError]:
    """Refuse providers that nobody knows, or that have no address, or two ways to one key."""
    stated = raw_providers(document)
    known = sorted({*VENDORS, *stated})
    for path, model in models:
        name = model.get("provider")
        if isinstance(name, str) and name not in known:
            mend = did_you_mean(name, known, f"add `providers: {{{name}: {{base_url: ...}}}}`")
            found, allowed = f'"{shorten(name)}"', ", ".join(known)
            yield document.error((*path, "provider"), "unknown provider", found, allowed, mend)
    for name, (path, entry) in stated.items():
        if name in RESERVED:
            yield document.error(path, "the name is taken by counters", mend="choose another name")
        if name not in VENDORS and "base_url" not in entry:
            mend = did_you_mean(name, VENDORS, "add `base_url:`")
            yield document.error(path, "the provider has no address", f'"{name}"', "", mend)
        yield from exclusive(document, path, "api_key_env", "api_key_file")
        yield from exclusive(document, path, "monthly_cap", "monthly_budget")


def raw_accounts(provider: Mapping[str, Value]) -> list[str]:
    """List the accounts of a provider as written."""
    stated = provider.get("accounts")
    return list(stated) if isinstance(stated, dict) and stated else [DEFAULT_ACCOUNT]


def on_accounts(
    document: Document, models: Sequence[tuple[Path, dict[str, Value]]]
) -> Iterable[tuple[Path, dict[str, Value]]]:
    """Spread each model over the accounts that it is offered on (R18)."""
    stated = raw_providers(document)
    for path, model in models:
        pinned = model.get("account")
        _, provider = stated.get(str(model.get("provider")), (path, {}))
        for name in raw_accounts(provider) if pinned is None else [pinned]:
            yield path, {**model, "account": name}


def check_accounts(
    document: Document, models: Sequence[tuple[Path, dict[str, Value]]]
) -> Iterable[StrategyError]:
    """Refuse accounts that nobody stated, a key beside them, and one key under two names."""
    stated = raw_providers(document)
    for path, model in models:
        _, provider = stated.get(str(model.get("provider")), (path, {}))
        name, known = model.get("account"), raw_accounts(provider)
        if isinstance(name, str) and name not in known:
            here, found = (*path, "account"), f'"{shorten(name)}"'
            mend = did_you_mean(name, known, "name it under `providers:`, `accounts:`")
            yield document.error(here, "no such account", found, ", ".join(known), mend)
    for path, provider in stated.values():
        accounts = provider.get("accounts")
        for key in ("api_key_env", "api_key_file") if isinstance(accounts, dict) else ():
            if key in provider:
                mend = "move it to one of the accounts"
                yield document.error((*path, key), "each account states its own key", mend=mend)
        seen: dict[object, str] = {}
        for name, account in accounts.items() if isinstance(accounts, dict) else ():
            here = (*path, "accounts", name)
            if not isinstance(account, dict):
                continue
            yield from exclusive(document, here, "api_key_env", "api_key_file")
            source = (account.get("api_key_env"), account.get("api_key_file"))
            other = seen.setdefault(source, name)
            if other != name:
                line = document.line((*path, "accounts", other))
                mend = f"{other} on line {line} has the same one: limits would count twice"
                yield document.error(here, "two accounts have one key", f'"{name}"', mend=mend)


def check_baseline(
    document: Document, models: Sequence[tuple[Path, dict[str, Value]]]
) -> Iterable[StrategyError]:
    """Refuse a baseline that is no model of the file (R15)."""
    names = [f"{model.get('provider')}/{model.get('model')}" for _, model in models]
    for path in (("reporting", "baseline"), (TOP, "reporting", "baseline")):
        name = value_at(document, path)
        if isinstance(name, str) and name not in names:
            mend = did_you_mean(name, names)
            found = f'"{shorten(name)}"'
            yield document.error(path, "no such model in the file", found, ", ".join(names), mend)
