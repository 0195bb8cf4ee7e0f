"""What to do about each error: who mends it, and how. One table, for messages and for docs/errors.

Every message of an error ends with the mend of its reason, so that nobody has to look it up.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from escalade.v1 import error_pb2


class Who(Enum):
    """Who can do something about it."""

    CALLER = "the caller"
    OPERATOR = "an operator"
    TIME = "time; nobody has to do anything"
    MAKERS = "whoever makes Escalade"


class Again(Enum):
    """Whether the same call may be made again."""

    NO = "No: the same call fails the same way."
    AT_ONCE = "Yes, at once; the SDK does so where it is safe."
    LATER = "Yes, after the delay of `RetryInfo`."
    AT_INSTANT = (
        "Yes, at the instant of `RetryInfo`, if there is one; otherwise not before the mend."
    )


class Mend(NamedTuple):
    """How one reason is mended; ``words`` end its messages."""

    words: str
    who: Who
    again: Again
    more: str
    """What to know beyond that, for its page."""


_W, _C, _O, _T = error_pb2, Who.CALLER, Who.OPERATOR, Who.TIME
MENDS: Mapping[error_pb2.ErrorReason.ValueType, Mend] = MappingProxyType(
    {
        _W.ERROR_REASON_REQUEST_INVALID: Mend(
            "mend the field and call again", _C, Again.NO,
            "`BadRequest` names each field by its path and says what is allowed. A request id that"
            " comes again with other content is one of them: take a new id for a new question.",
        ),
        _W.ERROR_REASON_REQUEST_REJECTED: Mend(
            "change the content, or allow another model", _C, Again.NO,
            "A provider found the content at fault: too large, a schema or a tool that it does not"
            " take, an image that it cannot read. What it said stands in the attempt's detail.",
        ),
        _W.ERROR_REASON_CALLER_UNKNOWN: Mend(
            "an operator makes a token with `escalade token create`", _C, Again.NO,
            "The call had no credential, or one that is unknown, revoked or expired: the answer is"
            " the same for all. Commands read the token from ESCALADE_TOKEN. `escalade token list`"
            " shows which are live.",
        ),
        _W.ERROR_REASON_ROLE_REQUIRED: Mend(
            "use the token of an operator", _C, Again.NO,
            "Agents see their own status, use and traces; the event feed, model states and the"
            " strategy are an operator's. `escalade token create NAME --role operator` makes such a"
            " token.",
        ),
        _W.ERROR_REASON_LAYER_FORBIDDEN: Mend(
            "leave the layer out of the constraints, or have `agents:` allow it", _C, Again.NO,
            "The request demands a layer that the strategy does not give this agent.",
        ),
        _W.ERROR_REASON_NO_ELIGIBLE_MODEL: Mend(
            "`escalade status` shows what is out and why, `escalade explain` where a task may go",
            _C, Again.NO,
            "Every model is out for a reason that time does not change: the limits of the request"
            " or of the agent, a context that is too long, a feature or capability that no model"
            " has. The skips of the report name the reason of each model.",
        ),
        _W.ERROR_REASON_CONSENT_REQUIRED: Mend(
            "state the layer in `consented_layers` to agree to what it costs", _C, Again.NO,
            "Only layers are left that the strategy protects by `consent: required`. Consent stands"
            " in the request, or for an agent for good under `agents:`.",
        ),
        _W.ERROR_REASON_QUALITY_NOT_MET: Mend(
            "`escalade trace REQUEST_ID` shows which gate each answer failed", _C, Again.AT_INSTANT,
            "Each answer failed a gate and was charged. If one fails on good answers, loosen it; if"
            " the models are too weak, add a better one; `on_unmet: deliver` takes the last answer,"
            " marked UNMET.",
        ),
        _W.ERROR_REASON_TRIGGER_NOT_MET: Mend(
            "`escalade check` says which trigger can never fire", _O, Again.AT_INSTANT,
            "The layers that the task may use are out, and the trigger of the next one does not"
            " hold: a layer with `trigger:` is entered for that and nothing else. Without a trigger"
            " it is entered whenever all before it are out.",
        ),
        _W.ERROR_REASON_BUDGET_EXHAUSTED: Mend(
            "`escalade status` shows each cap and when it opens again", _O, Again.AT_INSTANT,
            "A cap of the month, the balance of a provider, or the spend limit of the request has"
            " no room for this task in any layer that it may use. An operator raises `monthly_cap`"
            " and reloads; a caller may raise its spend limit, or allow a free layer.",
        ),
        _W.ERROR_REASON_RATE_LIMITED: Mend(
            "call again at the instant of RetryInfo, or let the task wait (`may_wait`)", _T,
            Again.AT_INSTANT,
            "Requests or tokens per window are used up in every layer that the task may use."
            " `escalade status` shows each window and when it opens. If it happens often, add a"
            " model or a paid layer; `escalade report` shows how often.",
        ),
        _W.ERROR_REASON_TOO_MANY_WAITERS: Mend(
            "call again later, or with fewer calls at once", _C, Again.LATER,
            "So many tasks wait for capacity that no more are taken: of this agent, over this"
            " connection, or on this server. `escalade status` shows who waits, and for what.",
        ),
        _W.ERROR_REASON_SERVER_BUSY: Mend(
            "call again after a moment; more servers take more calls", _T, Again.LATER,
            "The server has as many calls, or bytes of calls, in flight as it takes; or the agent"
            " has as many as the strategy allows it.",
        ),
        _W.ERROR_REASON_ALL_MODELS_FAILED: Mend(
            "`escalade trace REQUEST_ID` shows why each attempt failed", _T, Again.AT_INSTANT,
            "Every model that the task may use was called and failed, or is set aside because it"
            " failed. Look whether it is one provider, and at its status page; a layer on another"
            " provider would have helped. Keys and balances stand out in `escalade status`.",
        ),
        _W.ERROR_REASON_DRAINING: Mend(
            "call again: another server takes it", _T, Again.AT_ONCE,
            "This server shuts down, in order. A task that waited keeps its place with the token of"
            " its last `Waiting`; the SDK does that by itself.",
        ),
        _W.ERROR_REASON_LEDGER_UNAVAILABLE: Mend(
            "`escalade doctor` says what is wrong with the ledger", _O, Again.LATER,
            "Nothing is admitted while the ledger cannot be written, since no cap could be kept."
            " The log says `ledger.failing` with the cause: a full disk, rights, a Redis that is"
            " gone. The server goes on by itself as soon as it can.",
        ),
        _W.ERROR_REASON_DEADLINE_REACHED: Mend(
            "allow more time, or `escalade trace REQUEST_ID` for where it went", _C, Again.AT_ONCE,
            "The deadline of the call, or `timeouts: {work: ...}` of the strategy, ended before an"
            " answer. What was tried was charged, and is in the report.",
        ),
        _W.ERROR_REASON_CANCELLED: Mend(
            "call again if it was not meant", _C, Again.AT_ONCE,
            "The caller left, or did not read its stream for too long. Records and the log show"
            " it; a caller that is there sees it only for a stream that it stopped reading.",
        ),
        _W.ERROR_REASON_INTERRUPTED: Mend(
            "call again; `on_interruption: RESTART` starts over where another model can", _C,
            Again.AT_INSTANT,
            "A model broke off in the middle of its answer, and the caller had asked not to start"
            " over, or no other model could. What it had said is no whole answer; it is charged.",
        ),
        _W.ERROR_REASON_REQUEST_IN_PROGRESS: Mend(
            "wait for the first call, or ask again later with the same id", _C, Again.LATER,
            "A request id is answered once. Its first call still runs; when it is over, the same id"
            " gets the same answer for 10 minutes, without a second charge.",
        ),
        _W.ERROR_REASON_ALREADY_ANSWERED: Mend(
            "take a new request id to ask anew, at a new price", _C, Again.NO,
            "The answer of this id was given and is kept for 10 minutes only, on the server that"
            " gave it. The report of the error has its figures.",
        ),
        _W.ERROR_REASON_OUTCOME_CONFLICT: Mend(
            "report each attempt once", _C, Again.NO,
            "Another outcome of this attempt was booked before, and stays.",
        ),
        _W.ERROR_REASON_RESERVATION_UNKNOWN: Mend(
            "report with the id of `Selected`, within a day, as the same agent", _C, Again.NO,
            "There is no such reservation of this agent. What was never reported has been booked at"
            " the worst case that was reserved.",
        ),
        _W.ERROR_REASON_RESUME_TOKEN_INVALID: Mend(
            "call again without the token, and wait anew", _C, Again.NO,
            "A place in the queue is kept for 120 seconds, for the same agent, request id and"
            " content; and servers must share the secret, which lies beside the ledger.",
        ),
        _W.ERROR_REASON_CURSOR_EXPIRED: Mend(
            "begin at the oldest entry with `escalade watch --since start`", _C, Again.NO,
            "The feed is kept for a week and 100,000 entries, and a new ledger begins a new feed."
            " The metadata `oldest` is the cursor from which all that is kept follows.",
        ),
        _W.ERROR_REASON_MODEL_UNKNOWN: Mend(
            "`escalade status` lists layers and models", _C, Again.NO,
            "The strategy in force has no layer or model of this name; names are those of the file,"
            " a model also as `provider/model`.",
        ),
        _W.ERROR_REASON_TRACE_UNKNOWN: Mend(
            "`escalade watch --since start` lists what happened", _C, Again.NO,
            "Kept for a day, and at most 2,000, are tasks that escalated, fell back, waited, failed"
            " or took over 30 s; of the others the last 200 of each server. An agent finds its own"
            " only. What was exported is in the tracer for longer.",
        ),
        _W.ERROR_REASON_NOT_YET_BUILT: Mend(
            "leave it out, or ask a newer server", _C, Again.NO,
            "The request asks for something by name that this server does not do, or has nothing"
            " for: nothing is ignored in silence.",
        ),
        _W.ERROR_REASON_BUG: Mend(
            "quote the id when you report it", Who.MAKERS, Again.AT_ONCE,
            "A mistake of the service. The log has it as `server.mistake` under the same id, with"
            " the place in the code; callers are told nothing of the inside.",
        ),
    }
)  # fmt: skip
"""Total: a test holds it against the enum."""


def mended(reason: error_pb2.ErrorReason.ValueType, message: str) -> str:
    """End a message with the mend of its reason, unless it says it already."""
    words = MENDS[reason].words
    if words in message:
        return message
    return f"{message.rstrip('. ')}; {words}" if message else words
