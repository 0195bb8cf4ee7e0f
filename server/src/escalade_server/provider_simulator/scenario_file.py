"""Loads a scenario from YAML or JSON, and refuses one that cannot be played."""

from __future__ import annotations

import difflib
import typing
import zoneinfo
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass

import msgspec
import yaml

from escalade_server.provider_simulator.quota import refusal_of
from escalade_server.provider_simulator.scenario import ProviderScript, Scenario
from escalade_server.provider_simulator.vendor_errors import HTTP_KINDS, LACKING, error_of
from escalade_server.provider_simulator.vendors import VENDORS, vendor_of

PERCENT_MAX = 100

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance


class ScenarioError(ValueError):
    """A scenario that cannot be played; the text names each place and what is wrong there."""


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key comes once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:  # noqa: FBT001, FBT002  (the library’s signature)
        """Makes a mapping; a key that comes twice is an error with its line."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                mark = key_node.start_mark
                message = f"line {mark.line + 1}: the key {key_node.value!r} comes twice"
                raise ScenarioError(message)
            seen.add(key_node.value if isinstance(key_node, yaml.ScalarNode) else key_node)
        return super().construct_mapping(node, deep)


def load_scenario(text: str) -> Scenario:
    """Reads a scenario from YAML (of which JSON is a part).

    Raises:
        ScenarioError: with one line for each problem: its place, and the nearest known key.
    """
    try:
        data = yaml.load(text, StrictLoader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        message = f"not YAML: {error}"
        raise ScenarioError(message) from None
    problems: list[str] = []
    scenario = read(Scenario, data, "", problems)
    if problems:
        raise ScenarioError("\n".join(problems))
    assert isinstance(scenario, Scenario)
    check_scenario(scenario)
    return scenario


def read(kind: object, value: object, place: str, problems: list[str]) -> object:
    """The value as `kind` (a type of `scenario.py`); what is wrong is added to `problems`."""
    if isinstance(kind, type) and is_dataclass(kind):
        return read_fields(kind, value, place, problems)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list):
        return tuple(
            read(inner[0], item, f"{place}.{index}", problems) for index, item in enumerate(value)
        )
    if origin is Mapping and isinstance(value, dict):
        return {
            read(str, key, place, problems): read(inner[1], item, f"{place}.{key}", problems)
            for key, item in value.items()
        }
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(f"{place.lstrip('.') or 'scenario'}: {error}, found {value!r}")
        return None


def read_fields(
    kind: type[DataclassInstance], value: object, place: str, problems: list[str]
) -> object:
    """A value with the fields of `kind`: all that have no default, and no others."""
    here = place.lstrip(".") or "scenario"
    if not isinstance(value, dict):
        problems.append(f"{here}: expected keys and values, found {value!r}")
        return None
    hints = typing.get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            mend = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            problems.append(f"{here}: unknown key {key!r}, {mend}")
    for field in fields(kind):
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed and field.name not in value:
            problems.append(f"{here}: the key {field.name!r} is missing")
    found = {
        key: read(hints[key], item, f"{place}.{key}", problems)
        for key, item in value.items()
        if key in known
    }
    return None if problems else kind(**found)


def check_scenario(scenario: Scenario) -> None:
    """Refuses a scenario with numbers out of bounds or refusals its vendors do not know.

    Raises:
        ScenarioError: with one line for each problem.
    """
    problems = [
        f"providers.{name}: {problem}"
        for name, provider in scenario.providers.items()
        for problem in provider_problems(name, provider)
    ]
    if problems:
        raise ScenarioError("\n".join(problems))


def provider_problems(name: str, provider: ProviderScript) -> Iterator[str]:
    """What is wrong with one provider."""
    if not name or "/" in name or name.startswith("_"):
        yield "a name is one step of a path and does not begin with '_'"
    if provider.vendor is not None and provider.vendor not in VENDORS:
        yield f"vendor {provider.vendor!r} is not one of {', '.join(VENDORS)}"
        return
    vendor = vendor_of(name, provider.vendor, provider.dialect)
    if provider.dialect not in {None, vendor.dialect}:
        yield f"vendor {provider.vendor!r} does not speak {provider.dialect!r}"
    yield from negative_numbers("", provider)
    kinds = [fault.kind for fault in provider.faults]
    quotas = list(provider.quotas)
    for model, script in provider.models.items():
        kinds += [fault.kind for fault in script.faults]
        quotas += script.quotas
        yield from negative_numbers(f"models.{model}.", script)
        if script.tokens_per_second == 0:
            yield f"models.{model}.tokens_per_second: must be above 0"
    for quota in quotas:
        kinds.append(refusal_of(quota))
        if not is_zone(quota.zone):
            yield f"zone {quota.zone!r} is not an IANA zone"
        if refusal_of(quota) not in HTTP_KINDS:
            yield f"a quota cannot refuse with {quota.refusal!r}: it is no HTTP error"
    for kind in dict.fromkeys(kinds):
        unknown = kind in HTTP_KINDS and error_of(vendor.name, kind) is None
        if unknown or kind in LACKING[vendor.dialect]:
            yield f"{vendor.name} has no {kind.value!r}"


def negative_numbers(place: str, value: object) -> Iterator[str]:
    """Every number of a script is zero or more; shares are at most a hundred percent."""
    if not is_dataclass(value) or isinstance(value, type):
        return
    for field in fields(value):
        name = f"{place}{field.name}"
        found = getattr(value, field.name)
        if isinstance(found, int) and found < (1 if field.name == "every" else 0):
            yield f"{name}: {found} is too small"
        elif field.name.endswith("percent") and found > PERCENT_MAX:
            yield f"{name}: {found} is more than {PERCENT_MAX}"
        elif isinstance(found, tuple):
            for place_in, item in enumerate(found):
                yield from negative_numbers(f"{name}.{place_in}.", item)
        else:
            yield from negative_numbers(f"{name}.", found)


def is_zone(name: str) -> bool:
    """Whether the zone is known."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
