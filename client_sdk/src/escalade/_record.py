"""What the service reports about its work: models, usage, attempts. Read-only views."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from escalade._proto import instant_of, name_of, one_line, usd_of
from escalade.v1 import completion_pb2, error_pb2, escalation_pb2


@dataclass(frozen=True, slots=True)
class Model:
    """A model on one account in one layer. What does not apply is empty."""

    layer: str
    provider: str
    model: str
    account: str = ""

    def __str__(self) -> str:
        name = "/".join(word for word in (self.provider, self.model) if word) or self.layer
        return f"{name} ({self.account})" if self.account not in {"", "default"} else name


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. A part that nobody reported is None, which is not zero.

    Attributes:
        input_tokens: All input, read from and written to the cache included.
        output_tokens: All output, reasoning included.
        cached_input_tokens: The input read from the cache.
        cache_write_tokens: The input written to the cache.
        reasoning_tokens: The output that was reasoning.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of one model.

    Attributes:
        number: Its number within the task, from 1.
        model: The model called.
        status: How it ended, such as OK, FAILED or RETRACTED.
        failure_class: Why it failed, such as RATE_SHORT; empty if it did not.
        gate: The quality gate that it failed; empty if none.
        detail: The failure, for people.
        http_status: The provider's status.
        started: When the call began.
        first_token: When the first token came.
        ended: When the call ended.
        finish_reason: Why the model stopped; empty if it did not.
        reported_model: The model as the provider's answer names it.
        usage: Its tokens.
        cost_nanos: What is charged, in nano-dollars: 0 at free and subscription models.
        list_nanos: Its value at list price.
        basis: Where the figures come from: REPORTED, ESTIMATED or RESERVED.
        reservation_id: Its reservation in the ledger.
    """

    number: int
    model: Model
    status: str
    failure_class: str
    gate: str
    detail: str
    http_status: int | None
    started: datetime | None
    first_token: datetime | None
    ended: datetime | None
    finish_reason: str
    reported_model: str
    usage: Usage
    cost_nanos: int
    list_nanos: int
    basis: str
    reservation_id: str

    @property
    def cost_usd(self) -> Decimal:
        """What is charged, in dollars."""
        return usd_of(self.cost_nanos)

    def __str__(self) -> str:
        why = ": ".join(word for word in (self.failure_class, one_line(self.detail)) if word)
        return f"{self.number}. {self.model}: {self.status}" + (f" ({why})" if why else "")


@dataclass(frozen=True, slots=True)
class Skip:
    """A model or layer that was passed over: the class of the reason, its word, and until when."""

    model: Model
    verdict: str
    reason: str
    detail: str
    until: datetime | None


def model_from_proto(ref: escalation_pb2.ModelRef) -> Model:
    """Read the name of a model."""
    return Model(ref.layer, ref.provider, ref.model, ref.account)


def usage_from_proto(usage: completion_pb2.Usage) -> Usage:
    """Read counts of tokens."""
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=(
            usage.cached_input_tokens if usage.HasField("cached_input_tokens") else None
        ),
        cache_write_tokens=(
            usage.cache_write_tokens if usage.HasField("cache_write_tokens") else None
        ),
        reasoning_tokens=usage.reasoning_tokens if usage.HasField("reasoning_tokens") else None,
    )


def skip_from_proto(skip: escalation_pb2.Skip) -> Skip:
    """Read why something was passed over."""
    return Skip(
        model=model_from_proto(skip.target),
        verdict=name_of(escalation_pb2.VerdictClass.DESCRIPTOR, skip.verdict),
        reason=skip.reason,
        detail=skip.detail,
        until=instant_of(skip.until) if skip.HasField("until") else None,
    )


def attempt_from_proto(attempt: escalation_pb2.Attempt) -> Attempt:
    """Read the record of an attempt."""
    return Attempt(
        number=attempt.attempt,
        model=model_from_proto(attempt.target),
        status=name_of(escalation_pb2.AttemptStatus.DESCRIPTOR, attempt.status),
        failure_class=name_of(error_pb2.FailureClass.DESCRIPTOR, attempt.failure_class),
        gate=name_of(completion_pb2.Gate.DESCRIPTOR, attempt.gate),
        detail=attempt.detail,
        http_status=attempt.http_status if attempt.HasField("http_status") else None,
        started=instant_of(attempt.started) if attempt.HasField("started") else None,
        first_token=instant_of(attempt.first_token) if attempt.HasField("first_token") else None,
        ended=instant_of(attempt.ended) if attempt.HasField("ended") else None,
        finish_reason=name_of(completion_pb2.FinishReason.DESCRIPTOR, attempt.finish_reason),
        reported_model=attempt.reported_model,
        usage=usage_from_proto(attempt.usage),
        cost_nanos=attempt.cost.charged_nano_usd,
        list_nanos=attempt.cost.list_nano_usd,
        basis=name_of(completion_pb2.Basis.DESCRIPTOR, attempt.basis),
        reservation_id=attempt.reservation_id,
    )
