"""A value of another kind, anywhere in a file, is told by its line and is no mistake of ours."""

import copy
from collections.abc import Iterator

import pytest
import yaml

from escalade_server.strategy.errors import StrategyErrors
from escalade_server.strategy.load import loads
from tests.fuzz.seeds import RICH
from tests.fuzz.words import ENVIRONMENT, strategy

Path = tuple[str | int, ...]
KINDS = ([["a"]], {"a": {"b": [1]}}, 10**30, None, "x")


def paths(value: object, path: Path = ()) -> Iterator[Path]:
    """Every place of a file."""
    if path:
        yield path
    named: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        named = list(value.items())
    elif isinstance(value, list):
        named = list(enumerate(value))
    for key, inner in named:
        yield from paths(inner, (*path, key))


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_value_of_another_kind_is_told(kind: object) -> None:
    whole = yaml.safe_load(RICH)
    for path in paths(whole):
        changed = copy.deepcopy(whole)
        place = changed
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = kind
        strategy(yaml.safe_dump(changed).encode())  # it loads, or holds what it tells


def test_a_list_for_the_name_of_a_layer_is_told() -> None:
    text = RICH.replace("name: free\n", "name: [free]\n")
    with pytest.raises(StrategyErrors) as refused:
        loads(text.encode(), environ=ENVIRONMENT)
    assert any("layers[0].name" in str(error) for error in refused.value)


@pytest.mark.parametrize("key", ["sk-never-to-be-shown", "sk-" + "0123456789" * 16])
def test_an_error_names_a_placeholder_and_shows_nothing_of_its_value(key: str) -> None:
    text = (
        "fallback_strategy:\n  layers:\n    - name: a\n      models:\n        - provider: ${KEY}\n"
    )
    with pytest.raises(StrategyErrors) as refused:
        loads(text, environ={"KEY": key})
    assert "${KEY}" in str(refused.value)
    assert key[:12] not in str(refused.value)
