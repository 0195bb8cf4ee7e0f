"""What good answers say is left: a model whose limit is used up is set aside at once (P14)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from escalade_server.core.commands import CallModel, SetBench
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Bench
from escalade_server.core.task import Message, Request, Role, Task, Text
from escalade_server.engine.ports import ProviderFailure
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.http import HttpClient
from escalade_server.providers.registry import CODECS, ProviderRegistry
from escalade_server.providers.resets import used_up_ms
from escalade_server.providers.signal_tables import VENDORS
from tests.providers.candidates import candidate
from tests.providers.raw_server import Peer, serve
from tests.providers.signal_cases import NOW_MS

REQUEST = Request("r1", Task(), (Message(Role.USER, (Text("Why?"),)),))


class At:
    """A clock that stands."""

    @staticmethod
    def now_ms() -> int:
        return NOW_MS


@dataclass(frozen=True)
class Case:
    """The headers of one good answer, and until when and why the model is then set aside."""

    vendor: str
    says: str
    headers: Mapping[str, str]
    until_ms: int | None
    cls: FailureClass | None


def cases() -> list[Case]:
    entries = yaml.safe_load(Path(__file__).with_name("limits.yaml").read_text())
    return [
        Case(
            entry["vendor"],
            entry["says"],
            entry["headers"],
            NOW_MS + entry["until"] if "until" in entry else None,
            FailureClass(entry["is"]) if "is" in entry else None,
        )
        for entry in entries
    ]


CASES = cases()


async def heeded(
    client: HttpClient, vendor: str, headers: Mapping[str, str], status: str = "200 OK"
) -> list[SetBench]:
    """Call a server that answers with these headers; answer what was to be set aside."""
    told = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.answer(b"{}", status=status, headers=told)

    found: list[SetBench] = []
    dialect = VENDORS[vendor].dialect
    async with serve(script) as server:
        endpoint = Endpoint(vendor, "spare", server.url.partition("/chat")[0], "sk-made-up")
        providers = ProviderRegistry.over_http(
            [(dialect, endpoint)], client, At(), heed=found.append
        )
        chosen = candidate(vendor, "m", dialect=dialect, account="spare")
        calls = providers.of(chosen.model).call(CallModel(1, chosen), REQUEST)
        with pytest.raises(ProviderFailure):  # the body is no answer; its headers came before it
            async for _ in calls:
                pass
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.vendor}: {case.says}")
async def test_a_used_up_limit_sets_the_model_aside(client: HttpClient, case: Case) -> None:
    found = await heeded(client, case.vendor, case.headers)

    if case.until_ms is None or case.cls is None:
        assert found == []
        return
    (order,) = found
    assert order.key == f"{case.vendor}/spare/m"
    assert order.bench == Bench(case.until_ms, case.cls, order.bench.detail)
    assert "nothing is left" in order.bench.detail


async def test_a_refusal_is_classified_and_nothing_else(client: HttpClient) -> None:
    case = CASES[0]
    assert await heeded(client, case.vendor, case.headers, "429 Too Many Requests") == []


@pytest.mark.parametrize("name", [name for name in VENDORS if VENDORS[name].reset_headers])
def test_no_header_of_a_vendor_is_idle(name: str) -> None:
    rows = VENDORS[name].reset_headers
    told = [
        {header.lower(): value for header, value in case.headers.items()}
        for case in CASES
        if case.vendor == name
    ]
    for number, row in enumerate(rows):
        rest = rows[:number] + rows[number + 1 :]
        assert any(
            used_up_ms(headers, rest, NOW_MS) != used_up_ms(headers, rows, NOW_MS)
            for headers in told
        ), row


def test_every_dialect_has_a_vendor_with_cases() -> None:
    assert {VENDORS[case.vendor].dialect for case in CASES} == set(CODECS)
