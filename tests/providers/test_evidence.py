"""What a caller of Route saw of a failure means what it would have meant to us (R33)."""

import dataclasses

import pytest

from escalade_server.core.catalog import Model
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.engine.ports import RawEvidence, TransportFault
from escalade_server.providers.evidence import FAULTS, EvidenceClassifier
from escalade_server.providers.signal_tables import VENDORS
from tests.providers.candidates import candidate
from tests.providers.signal_cases import NOW_MS, Case, Outcome, cases

CASES = [case for case in cases() if case.status and not case.near_window]
SECRET = b'{"error": {"message": "you said: the prompt nobody may read"}}'


def model(vendor: str) -> Model:
    return candidate(vendor, "m", dialect=VENDORS[vendor].dialect).model


def classed(evidence: RawEvidence, vendor: str = "openai") -> Failure:
    return EvidenceClassifier().classify(model(vendor), evidence, NOW_MS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.vendor}: {case.row}")
def test_every_signal_of_every_vendor_is_known_here_too(case: Case) -> None:
    found = classed(RawEvidence(case.status, case.headers, case.raw), case.vendor)

    told = Outcome(found.cls, found.code, found.scope, found.reset_at_ms)
    assert told == case.expected
    assert found.http_status == case.status


@pytest.mark.parametrize(
    ("fault", "cls", "sent"),
    [
        (TransportFault.CONNECT, FailureClass.OUTAGE, False),
        (TransportFault.DNS, FailureClass.OUTAGE, False),
        (TransportFault.TLS, FailureClass.OUTAGE, False),
        (TransportFault.RESET, FailureClass.OUTAGE, True),
        (TransportFault.TIMEOUT, FailureClass.TIMEOUT, True),
        (TransportFault.PROTOCOL, FailureClass.PROTOCOL, True),
    ],
)
def test_every_fault_of_the_transport_has_its_class(
    fault: TransportFault, cls: FailureClass, *, sent: bool
) -> None:
    found = classed(RawEvidence(fault=fault))

    assert (found.cls, found.sent, found.http_status) == (cls, sent, 0)
    assert found.detail.startswith("openai: ")


def test_the_faults_are_all_there() -> None:
    assert set(FAULTS) == set(TransportFault)


@pytest.mark.parametrize("fault", TransportFault)
def test_an_answer_that_began_was_sent(fault: TransportFault) -> None:
    found = classed(RawEvidence(200, fault=fault))

    assert (found.cls, found.sent) == (FAULTS[fault][0], True)


def test_a_refusal_says_more_than_the_transport() -> None:
    found = classed(RawEvidence(401, fault=TransportFault.RESET))

    assert found.cls is FailureClass.AUTH


def test_what_no_rule_knows_is_unknown_and_nothing_of_it_is_kept() -> None:
    found = classed(RawEvidence(418, body=SECRET))

    assert found.cls is FailureClass.UNKNOWN
    assert "prompt" not in repr(found)
    assert "prompt" not in repr(RawEvidence(418, body=SECRET))


def test_headers_that_no_rule_reads_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    class Spy:
        def classify(self, *args: object) -> Failure:
            headers = args[2]
            assert isinstance(headers, dict)
            seen.append(headers)
            return Failure(FailureClass.UNKNOWN, "")

    monkeypatch.setattr("escalade_server.providers.evidence.CODECS", {"openai": Spy()})
    headers = {"retry-after": "1", "set-cookie": "secret", "x-ratelimit-reset-tokens": "6m0s"}
    classed(RawEvidence(429, headers))

    assert seen == [{"retry-after": "1", "x-ratelimit-reset-tokens": "6m0s"}]


def test_a_provider_of_our_users_goes_by_its_dialect() -> None:
    own = dataclasses.replace(model("openai"), provider="my-vllm")
    found = EvidenceClassifier().classify(own, RawEvidence(503, body=b"<html>"), NOW_MS)

    assert found.cls in {FailureClass.OUTAGE, FailureClass.OVERLOADED}
