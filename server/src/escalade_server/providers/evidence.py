"""Classes what a caller of ``Route`` saw of a failure, by the tables that class our own (R33)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from escalade_server.core.catalog import Model
from escalade_server.core.commands import Candidate
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.engine.ports import RawEvidence, TransportFault
from escalade_server.providers.registry import CODECS
from escalade_server.providers.signal_tables import vendor_of

_WAITS: Final = frozenset({"retry-after", "retry-after-ms"})
_F = TransportFault
FAULTS: Final[Mapping[TransportFault, tuple[FailureClass, bool, str]]] = MappingProxyType(
    {
        _F.CONNECT: (FailureClass.OUTAGE, False, "no connection could be made"),
        _F.DNS: (FailureClass.OUTAGE, False, "the name could not be resolved"),
        _F.TLS: (FailureClass.OUTAGE, False, "the TLS handshake failed"),
        _F.RESET: (FailureClass.OUTAGE, True, "the connection was cut"),
        _F.TIMEOUT: (FailureClass.TIMEOUT, True, "timed out"),
        _F.PROTOCOL: (FailureClass.PROTOCOL, True, "the answer could not be read"),
    }
)
"""Class, whether anything may have been sent, and in words; total over the faults."""


class EvidenceClassifier:
    """Implements `Classifier` by the provider's name and its model's dialect."""

    def classify(self, model: Model, evidence: RawEvidence, now_ms: int) -> Failure:
        """Class a failure: a refusal by its body, headers and status, else by the transport.

        Headers that no rule reads are dropped. Of the body only words of our tables remain.
        """
        status, fault = evidence.http_status, evidence.fault
        if fault is not None and (not status or 200 <= status < 300):
            cls, sent, words = FAULTS[fault]
            # Headers came: so was the request, whatever else is said of the transport.
            detail = f"{model.provider}: {words}"
            return Failure(cls, detail, status, fault.value, sent=sent or bool(status))
        vendor = vendor_of(model.provider, model.dialect)
        known = {h for reset in vendor.reset_headers for h in (reset.reset, reset.remaining)}
        headers = {k: v for k, v in evidence.headers.items() if k in known | _WAITS}
        call = Candidate(model, 0, 0, 0)
        codec = CODECS[model.dialect]
        return codec.classify(call, status, headers, evidence.body, now_ms)
