"""Which servers are advised to be renewed."""

import pytest

from escalade_server.stores.redis_versions import MENDED, advice


@pytest.mark.parametrize(
    ("name", "version", "mended"),
    [
        ("redis", "7.0.15", "8.6.3"), ("redis", "7.2.10", "7.2.11"), ("redis", "7.2.11", ""),
        ("redis", "8.2.1", "8.2.2"), ("redis", "8.2.2", ""), ("redis", "8.4.9", "8.6.3"),
        ("redis", "8.6.2", "8.6.3"), ("redis", "8.6.3", ""), ("redis", "8.8.0", ""),
        ("redis", "255.255.255", ""), ("redis", "8.6.3-rc1", "8.6.3"), ("redis", "odd", "8.6.3"),
        ("valkey", "8.1.5", "8.1.6"), ("valkey", "9.0.2", "9.0.3"), ("valkey", "9.0.3", ""),
        ("valkey", "9.1.0", ""), ("valkey", "10.0.0", ""), ("valkey", "8.3.0", "9.0.3"),
    ],
)  # fmt: skip
def test_a_version_with_known_holes_is_told(name: str, version: str, mended: str) -> None:
    info = {"redis_version": "7.2.4", "valkey_version": version}  # as Valkey says it
    if name == "redis":
        info = {"redis_version": version}
    told = advice(info)
    assert bool(told) == bool(mended)
    assert f"mended in {mended}:" in told or not mended


def test_the_lines_are_in_order() -> None:
    for lines in MENDED.values():
        assert list(lines) == sorted(lines)
        assert len({line[:2] for line in lines}) == len(lines)
