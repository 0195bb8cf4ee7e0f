"""``SetModelState``: an operator sets models aside, takes them in again, ends their cooldowns."""

from collections.abc import Mapping, Sequence

from escalade.v1 import error_pb2
from escalade.v1 import operations_service_pb2 as wire
from escalade_server.api.callers import Identity
from escalade_server.api.status import Refusal, RefusedError, not_built
from escalade_server.core.catalog import Model
from escalade_server.engine.controls import NOTE_MAX, ModelAction, ModelDesk
from escalade_server.engine.news import Place
from escalade_server.engine.ports import StoreError

ACTIONS: Mapping[wire.ModelAction.ValueType, ModelAction] = {
    wire.MODEL_ACTION_DISABLE: ModelAction.DISABLE,
    wire.MODEL_ACTION_ENABLE: ModelAction.ENABLE,
    wire.MODEL_ACTION_CLEAR_COOLDOWN: ModelAction.CLEAR_COOLDOWN,
}


async def serve(
    desk: ModelDesk | None, request: wire.SetModelStateRequest, caller: Identity, now_ms: int
) -> Sequence[Model]:
    """Do what is asked; answer the models that it was about.

    Raises:
        RefusedError: it cannot be meant so, there is no such model, or no shared state.
    """
    if desk is None:
        raise RefusedError(not_built("OperationsService.SetModelState without a desk"))
    place, until_ms = _place(request), _until_ms(request, now_ms)
    action = ACTIONS.get(request.action)
    if action is None:
        raise _invalid("action", "say DISABLE, ENABLE or CLEAR_COOLDOWN")
    if len(request.note) > NOTE_MAX:
        raise _invalid("note", f"{len(request.note)} characters; {NOTE_MAX} are kept")
    try:
        models = await desk.act(action, place, caller.agent, until_ms, request.note)
    except StoreError as error:
        reason = error_pb2.ERROR_REASON_LEDGER_UNAVAILABLE
        raise RefusedError(Refusal(reason, f"{error}; ask again")) from error
    if not models:
        named = "/".join(part for part in (place.layer, str(place)) if part)
        raise RefusedError(
            Refusal(
                error_pb2.ERROR_REASON_MODEL_UNKNOWN,
                f"the strategy has no model that is {named}",
                metadata=(("model", named),),
            )
        )
    return models


def _place(request: wire.SetModelStateRequest) -> Place:
    target = request.target
    if not (target.provider or target.model):
        raise _invalid("target", "name a provider, a model, or both")
    return Place(target.layer, target.provider, target.account, target.model)


def _until_ms(request: wire.SetModelStateRequest, now_ms: int) -> int:
    if not request.HasField("until"):
        return 0
    if request.action != wire.MODEL_ACTION_DISABLE:
        raise _invalid("until", "only DISABLE has an end")
    until_ms = request.until.ToMilliseconds()
    if until_ms <= now_ms:
        raise _invalid("until", "is over already; give a later instant, or none")
    return until_ms


def _invalid(field: str, what: str) -> RefusedError:
    reason = error_pb2.ERROR_REASON_REQUEST_INVALID
    return RefusedError(Refusal(reason, f"{field}: {what}", violations=((field, what),)))
