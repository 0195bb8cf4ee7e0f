"""Servers that all tests of a process share."""

from collections.abc import Iterator

import pytest

from tests.stores.servers import Server, serving


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("redis", tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving("valkey", tmp_path_factory.mktemp("valkey")) as server:
        yield server
