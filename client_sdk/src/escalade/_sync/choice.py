# Generated from ../_async/choice.py by client_sdk/unasync.py; change that, then `make gen`.
"""What a route gives: a model to call, and the block in which it is called."""

import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from escalade._bidi import Beat, Bidi
from escalade._desk import Handed
from escalade._errors import UsageError
from escalade._failure import FailureClass, FailureEvidence
from escalade._outcome import (
    answered_outcome,
    failed_outcome,
    not_sent_outcome,
    ok_outcome,
    outcome_of,
    rejected_outcome,
)
from escalade._types import Gate
from escalade._usage import Finish
from escalade.v1 import router_service_pb2

BEAT_LEAST_S, BEAT_MOST_S = 0.5, 60.0  # clocks differ, so that a lease may seem to be anything


class Choice:
    """A model that the caller may call now, once, inside its grant. Iterating a route gives them.

    One that is passed over (`continue`) is told to be not sent, and the next one comes.

    Attributes:
        number: The number of the attempt within the task.
        provider: Who serves the model.
        model: The model as the strategy names it.
        wire_model: The model as its provider knows it, which is what a provider's SDK wants.
        dialect: The wire protocol of the provider.
        layer: The layer.
        account: The label of the account whose key is to be used; never the key.
        max_input_tokens: The input that is granted; caps are kept for callers inside the grant.
        max_output_tokens: The output that is granted, reasoning included.
        expires: When the lease ends, unless it is extended; None if the service does not say.
        skips: What was passed over on the way to this model.
        reservation_id: Its reservation in the ledger.
    """

    def __init__(self, wire: Bidi, handed: Handed) -> None:
        selected = handed.selected
        self.number = selected.attempt
        self.provider = selected.model.provider
        self.model = selected.model.model
        self.wire_model = selected.wire_model
        self.dialect = selected.dialect
        self.layer = selected.model.layer
        self.account = selected.model.account
        self.max_input_tokens = selected.max_input_tokens
        self.max_output_tokens = selected.max_output_tokens
        self.expires = selected.expires
        self.skips = selected.skips
        self.reservation_id = selected.reservation_id
        self._wire = wire
        self._handed = handed

    def attempt(self) -> "OpenAttempt":
        """Make the block in which the model is called: `with choice.attempt() as attempt`."""
        return OpenAttempt(self._wire, self._handed)

    def __str__(self) -> str:
        return f"{self.number}. {self.provider}/{self.wire_model} in {self.layer}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class OpenAttempt:
    """A call of a model by the caller. The end of the block reports how the call ended.

    - After `ok(response)` the task is done, and charged for the usage that the response states.
      A block that ends without a word and without an exception is ok, too, but then nobody knows
      the usage, and the whole reservation is booked.
    - A provider's exception (of openai, anthropic or google-genai, of an HTTP client, or a timeout
      or broken connection of Python's own) is reported, and ends with the block: the route goes
      on to the next choice. If there is none, the route's error has it as its cause.
    - Any other exception goes on to the caller, as does every one after `ok` or its sisters. The
      call then counts as broken off: what it may have cost is booked.

    The lease is extended by itself while the block is open, until the deadline of the task.

    Attributes:
        error: The exception that ended the block, if one did.
    """

    def __init__(self, wire: Bidi, handed: Handed) -> None:
        self.error: BaseException | None = None
        self._wire = wire
        self._handed = handed
        self._outcome: router_service_pb2.Outcome | None = None
        self._begun_s = 0.0
        self._first_s: float | None = None

    @property
    def succeeded(self) -> bool:
        """The answer was good; known at the end of the block."""
        return self._handed.is_ok

    def ok(self, response: object = None, *, finish_reason: Finish | None = None) -> None:
        """Say that the model answered.

        Args:
            response: What the provider's SDK answered, or its usage, or an `escalade.Usage`.
            finish_reason: Why the model stopped, if the response does not say.

        Raises:
            UsageError: The response says nothing that is known, or an outcome was told before.
        """
        self._tell(ok_outcome(response, finish_reason))

    def rejected(
        self, gate: Gate | None = None, response: object = None, *, detail: str = ""
    ) -> None:
        """Say that the answer is not good enough: it is charged, and the task escalates.

        Args:
            gate: What it failed; None for a check of the caller's own.
            response: As for `ok`.
            detail: Why, for people.
        """
        self._tell(rejected_outcome(gate, response, detail))

    def failed(
        self, cause: FailureClass | FailureEvidence | BaseException, response: object = None
    ) -> None:
        """Say that the call failed.

        Args:
            cause: The class, or evidence or the exception, which the service classes.
            response: As for `ok`, if the provider reported tokens all the same.
        """
        self._tell(failed_outcome(cause, response))

    def not_sent(self) -> None:
        """Say that the call never left: nothing is charged."""
        self._tell(not_sent_outcome())

    def first_token(self) -> None:
        """Note that the first piece of a streamed answer is here; the first time counts."""
        if self._first_s is None:
            self._first_s = time.monotonic() - self._begun_s

    def progress(self) -> None:
        """Extend the lease now; while the block is open, that is done every third of it anyway."""
        progress = router_service_pb2.Progress(attempt=self._handed.selected.attempt)
        self._wire.send(router_service_pb2.RouteRequest(progress=progress))

    def __enter__(self) -> Self:
        if self._handed.begun or self._handed.outcome is not None:
            raise UsageError("a choice is good for one attempt; the route gives the next choice")
        self._handed.begun = self._handed.open = True
        self._begun_s = time.monotonic()
        lease_s = 3 * BEAT_MOST_S
        if self._handed.selected.expires is not None:
            lease_s = (self._handed.selected.expires - datetime.now(UTC)).total_seconds()
        period_s = min(max(lease_s / 3, BEAT_LEAST_S), BEAT_MOST_S)
        self._beat = Beat(period_s, self.progress)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        elapsed_s = time.monotonic() - self._begun_s
        self.error = error
        was_told = self._outcome is not None
        outcome = self._outcome or _read_off(error)
        ends_here = not was_told and error is not None and outcome_of(error) is not None
        outcome.attempt = self._handed.selected.attempt
        outcome.elapsed.FromMilliseconds(int(elapsed_s * 1_000))
        if self._first_s is not None:
            outcome.time_to_first_token.FromMilliseconds(int(self._first_s * 1_000))
        self._handed.outcome = outcome
        self._handed.open = False
        if ends_here and isinstance(error, Exception):
            self._handed.error = error
        self._beat.stop()
        if was_told or ends_here or error is None or self._handed.is_ok:
            self._wire.send(self._handed.message())
        return ends_here

    def _tell(self, outcome: router_service_pb2.Outcome) -> None:
        if not self._handed.open or self._outcome is not None:
            raise UsageError("an attempt has one outcome, which is told inside its block")
        self._outcome = outcome


def _read_off(error: BaseException | None) -> router_service_pb2.Outcome:
    """Say how a block ended of which nothing was told."""
    if error is None:
        return ok_outcome(None, None)
    return outcome_of(error) or answered_outcome(error) or failed_outcome(error)
