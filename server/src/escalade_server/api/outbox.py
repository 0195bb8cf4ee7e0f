"""What one call has to say, in order, until its one writer takes it (P2).

Rules of the file:
1. Order is kept: facts and deltas leave as they came, numbered from 1 without gaps.
2. Text is never held, but that a ``flush_interval`` asks for it: what piles up while the writer is
   busy is joined, so a slow reader gets fewer, larger messages.
3. ``Assessed`` and ``Selected`` may wait ``HOLD_S`` for the first delta; everything else never.
4. In WHOLE delivery deltas are not sent at all; the answer comes with ``Finished``.
5. Under Route no deltas come, and ``Selected`` waits for nothing.
"""

import asyncio
from collections.abc import Callable

from escalade.v1.router_service_pb2 import CompleteResponse, RouteResponse
from escalade_server.api.convert_out import put_event, state_to_proto, wire_text
from escalade_server.core.catalog import Model
from escalade_server.core.events import Delta, StateDelta, TextDelta, ToolCallDelta
from escalade_server.core.facts import (
    Assessed,
    ErrorReason,
    Fact,
    Failed,
    Outcome,
    Retracted,
    Selected,
    Waiting,
)

HOLD_S = 0.020
"""How long bookkeeping may wait for the first delta (DESIGN 6)."""
Response = CompleteResponse | RouteResponse
HIGH_WATER_CHARS = 65_536
"""Text waiting for the writer at which the provider is no longer read."""


class Piece:
    """Deltas of one attempt and kind, one after the other; they leave as one message."""

    __slots__ = ("attempt", "first", "kind", "texts")

    def __init__(self, attempt: int, first: Delta, text: str) -> None:
        """Begin with one delta; ``text`` is what joins."""
        self.attempt = attempt
        self.first = first
        self.kind = type(first)
        self.texts = [text]

    def takes(self, attempt: int, delta: Delta) -> bool:
        """Tell whether a delta continues this piece."""
        if attempt != self.attempt or type(delta) is not self.kind or self.kind is StateDelta:
            return False
        if isinstance(delta, ToolCallDelta) and isinstance(self.first, ToolCallDelta):
            return delta.slot == self.first.slot and not delta.id and not delta.name
        return True


class Outbox:
    """``engine.ports.Caller`` for one call of ``Complete``. Nothing here blocks or raises."""

    __slots__ = (
        "_attempt", "_broken", "_due", "_flush_s", "_items", "_loop", "_outcome", "_response",
        "_room", "_size", "_tail", "_timer", "_waiter", "_whole", "closed", "on_wait", "outcome",
        "running", "sequence", "trace_id", "writing_since",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        whole: bool,
        flush_s: float = 0.0,
        response: type[Response] = CompleteResponse,
    ) -> None:
        """Start empty. ``flush_s`` joins deltas after an attempt's first for up to that time."""
        self._loop = loop
        self._whole = whole
        self._flush_s = flush_s
        self._response = response
        self._broken: Exception | None = None
        self._items: list[Fact | Outcome | Piece] = []
        self._tail: Piece | None = None
        self._size = 0
        self._due = False
        self._attempt = 0
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._outcome: Outcome | None = None
        self.outcome: Outcome | None = None
        """The ending, once it has been taken for writing."""
        self.sequence = 0
        """Number of the last event taken."""
        self.trace_id = ""
        """Of the task, for its report."""
        self.running: Model | None = None
        """The model that is being called for this task, for status."""
        self.writing_since = 0.0
        """Loop time at which the current write began; 0 between writes (faults C5)."""
        self.closed = False
        self.on_wait: Callable[[bool], None] = _nobody
        """Told when the task begins to wait in the queue, and when it has a model again."""

    # ------------------------------------------------------------- the engine's side (Caller)

    def announce(self, fact: Fact) -> None:
        """Take a fact, in order with the deltas."""
        if self.closed:
            return
        kind = type(fact)
        if kind is Assessed or kind is Selected:
            self.running = fact.model if isinstance(fact, Selected) else None
            self.on_wait(False)  # noqa: FBT003 - the one thing that it is told
            self._items.append(fact)
            self._tail = None
            if kind is Selected and self._response is RouteResponse:
                self._ready()
            else:
                self._arm(HOLD_S)
            return
        self.running = None
        if isinstance(fact, Waiting) and fact.position:
            self.on_wait(True)  # noqa: FBT003
        if kind is Retracted and self._whole:
            return  # nothing was sent that could be void
        self._items.append(fact)
        self._tail = None
        self._ready()

    def deliver(self, attempt: int, deltas: tuple[Delta, ...]) -> None:
        """Take deltas of one attempt."""
        if self._whole or self.closed:
            return
        tail = self._tail
        for delta in deltas:
            if isinstance(delta, ToolCallDelta):
                text, empty = delta.arguments, not (delta.arguments or delta.id or delta.name)
            elif isinstance(delta, StateDelta):
                text, empty = "", False
            else:
                text = delta.text
                empty = not text
            if empty:
                continue
            if tail is not None and tail.takes(attempt, delta):
                tail.texts.append(text)
            else:
                tail = Piece(attempt, delta, text)
                self._items.append(tail)
            self._size += len(text)
        self._tail = tail
        if self._flush_s and attempt == self._attempt and self._size < HIGH_WATER_CHARS:
            self._arm(self._flush_s)
        elif tail is not None:
            self._attempt = attempt
            self._ready()

    def end(self, outcome: Outcome) -> None:
        """Take the one ending; nothing follows it."""
        assert self._outcome is None, "a task ends once"
        self._outcome = outcome
        self.running = None
        if self.closed:
            return
        if not (isinstance(outcome, Failed) and outcome.reason is ErrorReason.CANCELLED):
            self._items.append(outcome)
        self._ready()

    async def writable(self) -> None:
        """Return when less than ``HIGH_WATER_CHARS`` of text waits for the writer."""
        while self._size >= HIGH_WATER_CHARS and not self.closed:
            if self._room is None or self._room.done():
                self._room = self._loop.create_future()
            await self._room

    # ------------------------------------------------------------------------ the writer's side

    @property
    def ended(self) -> bool:
        """Whether the engine has given the ending."""
        return self._outcome is not None

    def break_off(self, error: Exception) -> None:
        """Make the writer raise this instead of taking more: the call ends by it."""
        self._broken = error
        self._ready()

    async def take(self) -> Response:
        """Wait until something is due; answer all that is ready, as one message.

        Raises:
            Exception: what ``break_off`` was given.
        """
        while not self._due:
            self._waiter = self._loop.create_future()
            await self._waiter
        self._waiter = None
        if self._broken is not None:
            raise self._broken
        items, self._items = self._items, []
        self._tail = None
        self._due = False
        self._size = 0
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self.outcome = self._outcome
        response = self._response()
        sequence = self.sequence
        for item in items:
            sequence += 1
            if isinstance(item, Piece):
                _write_piece(response, sequence, item)
            else:
                put_event(
                    response.events.add(), sequence, item, whole=self._whole, trace_id=self.trace_id
                )
        self.sequence = sequence
        return response

    def close(self) -> None:
        """Take no more: the call is over, whatever the engine still has to say."""
        self.closed = True
        self._items.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _arm(self, delay_s: float) -> None:
        if not self._due and self._timer is None:
            self._timer = self._loop.call_later(delay_s, self._ready)

    def _ready(self) -> None:
        self._due = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _nobody(_waits: bool) -> None:  # noqa: FBT001 - as it is called
    """Hear of a wait that nobody asks about."""


def _write_piece(response: Response, sequence: int, piece: Piece) -> None:
    """Write joined deltas. Filled in place: the hottest construction of the API."""
    event = response.events.add()
    event.sequence = sequence
    wire = event.delta
    wire.attempt = piece.attempt
    first, texts = piece.first, piece.texts
    text = wire_text(texts[0] if len(texts) == 1 else "".join(texts))
    if isinstance(first, TextDelta):
        wire.text = text
    elif isinstance(first, ToolCallDelta):
        call = wire.tool_call
        call.index = first.slot
        call.id = wire_text(first.id)
        call.name = wire_text(first.name)
        call.arguments_json_fragment = text
    elif isinstance(first, StateDelta):
        wire.provider_state.CopyFrom(state_to_proto(first.state))
    else:
        wire.reasoning = text
