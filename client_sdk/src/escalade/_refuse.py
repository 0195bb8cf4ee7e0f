"""How a scripted call ends badly: as the service ends one."""

from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from escalade._errors import CODES
from escalade._proto import name_of
from escalade._script import Refused
from escalade._status import DETAILS_KEY, DOMAIN
from escalade.v1 import error_pb2, escalation_pb2


def refusal_of(end: escalation_pb2.Failed) -> Refused:
    """Read the refusal that follows a Failed event."""
    return Refused(name_of(error_pb2.ErrorReason.DESCRIPTOR, end.reason), end.message)


def refuse(context: grpc.ServicerContext, refused: Refused) -> NoReturn:
    """Abort as the service does, with the details of google.rpc."""
    code = CODES.get(refused.reason, grpc.StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo(
        reason=refused.reason, domain=DOMAIN, metadata=refused.metadata
    )
    details = [Any(), Any()] if refused.retry_after is not None else [Any()]
    details[0].Pack(info)
    if refused.retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(refused.retry_after)
        details[1].Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=refused.message, details=details)
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.abort(code, refused.message)
