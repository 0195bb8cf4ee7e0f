"""What simulated providers do: frozen types, built in Python or loaded by `load_scenario`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


class FaultKind(enum.StrEnum):
    """Everything that can go wrong, by what is seen on the wire.

    The first group is the vendor's own refusal: an HTTP status with its true headers and body
    (`vendor_errors.py`); a kind that a vendor does not have is refused when the scenario is made.
    """

    # Refusals: an HTTP status and a body, nothing billed.
    RATE_LIMIT = "rate_limit"
    TOKENS_LIMIT = "tokens_limit"
    DAY_LIMIT = "day_limit"
    TOKENS_DAY_LIMIT = "tokens_day_limit"
    USD_DAY_LIMIT = "usd_day_limit"
    SLOW_DOWN = "slow_down"
    SPEND_WINDOW = "spend_window"
    CONCURRENCY_LIMIT = "concurrency_limit"
    UPSTREAM_RATE_LIMIT = "upstream_rate_limit"
    PLAN_WINDOW = "plan_window"
    BALANCE = "balance"
    BALANCE_LEGACY = "balance_legacy"
    SPEND_LIMIT = "spend_limit"
    PROJECT_SPEND_LIMIT = "project_spend_limit"
    USAGE_LIMIT = "usage_limit"
    KEY_LIMIT = "key_limit"
    CONTRACT_LIMIT = "contract_limit"
    LINKED_BILLING = "linked_billing"
    LINKED_SPEND_LIMIT = "linked_spend_limit"
    NOT_IN_TIER = "not_in_tier"
    OVERLOADED = "overloaded"
    BUSY_529 = "busy_529"
    SERVER_ERROR = "server_error"
    BAD_GATEWAY = "bad_gateway"
    GATEWAY_TIMEOUT = "gateway_timeout"
    REQUEST_TIMEOUT = "request_timeout"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    PERMISSION_DENIED = "permission_denied"
    ON_HOLD = "on_hold"
    MODEL_GONE = "model_gone"
    CONTEXT_LENGTH = "context_length"
    BAD_REQUEST = "bad_request"
    UNPROCESSABLE = "unprocessable"
    TOO_LARGE = "too_large"
    PROMPT_BLOCKED = "prompt_blocked"
    REDIRECT = "redirect"
    ARRAY_BODY = "array_body"
    # The connection, before an answer (U1, U3, U4).
    RESET = "reset"
    SILENCE = "silence"
    HEADERS_THEN_SILENCE = "headers_then_silence"
    ONLY_COMMENTS = "only_comments"
    # A status of 200 that is no answer (U11 to U13, U21).
    JSON_ERROR_200 = "json_error_200"
    HTML_200 = "html_200"
    EMPTY_200 = "empty_200"
    GZIP_BOMB = "gzip_bomb"
    # The answer breaks after `after_chunks` pieces (U5 to U8, U10, U14, U15, U19, U20).
    STALL = "stall"
    CUT = "cut"
    HANG_UP = "hang_up"
    BARE_END = "bare_end"
    ERROR_FRAME = "error_frame"
    GARBAGE_JSON = "garbage_json"
    DEEP_JSON = "deep_json"
    HUGE_NUMBER = "huge_number"
    ENDLESS_LINE = "endless_line"
    HUGE_EVENT = "huge_event"
    SLOW_DRIP = "slow_drip"
    # The answer is whole, but its HTTP is wrong (U22, U23).
    LENGTH_TOO_LONG = "length_too_long"
    LENGTH_TOO_SHORT = "length_too_short"
    LENGTH_AND_CHUNKED = "length_and_chunked"
    HEADER_FLOOD = "header_flood"
    # The answer is whole, but told in an odd way (U8, U9, U16, U17, U26, U27, U30).
    NO_FINISH_REASON = "no_finish_reason"
    NO_DONE = "no_done"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    PROMPT_FILTERED = "prompt_filtered"
    MALFORMED_CALL = "malformed_call"
    ACCOUNT_LIMITED = "account_limited"
    WINDOW_EXCEEDED = "window_exceeded"
    CUT_SHORT = "cut_short"
    MISSING_USAGE = "missing_usage"
    ZERO_USAGE = "zero_usage"
    NEGATIVE_USAGE = "negative_usage"
    HUGE_USAGE = "huge_usage"
    KEEP_ALIVE_COMMENTS = "keep_alive_comments"
    CRLF_FRAMES = "crlf_frames"
    BYTE_ORDER_MARK = "byte_order_mark"
    SPLIT_BYTES = "split_bytes"
    INTERLEAVED_CALLS = "interleaved_calls"
    OTHER_MODEL = "other_model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """List price, in pico-dollars per token ($1 per million tokens = 1,000,000)."""

    input_pico: int = 0
    output_pico: int = 0
    cached_input_pico: int | None = None
    """For input tokens read from the vendor's cache; None: as other input."""
    cache_write_pico: int | None = None
    """For input tokens written to the vendor's cache; None: as other input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """So many requests or tokens in a calendar window; more is refused as the vendor does.

    Refused requests do not count. Tokens are counted when an answer ends, so a token quota lets
    through what was under way, as the vendors' do.
    """

    limit: int
    per: Literal["second", "minute", "hour", "day", "month"] = "day"
    of: Literal["requests", "tokens"] = "requests"
    zone: str = "UTC"
    """IANA zone in which the vendor's day begins."""
    refusal: FaultKind | None = None
    """How the vendor says no; None: by `of` and `per`, as `quota.refusal_of` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault and when it strikes; without any condition, always.

    All conditions must hold. Requests are numbered from 1 for each model, since its script was
    set; times count from the start of the simulator.
    """

    kind: FaultKind
    on_requests: tuple[int, ...] = ()
    every: int = 1
    """Only each n-th request (P8, flapping)."""
    percent: int = 100
    """Only this share of requests, drawn from the scenario's seed."""
    from_ms: int = 0
    until_ms: int | None = None
    after_chunks: int = 1
    """For kinds that break an answer: after so many pieces of text."""
    retry_after_ms: int | None = None
    """For refusals that name an instant; None: what the vendor would say of this kind."""
    retry_after: str | None = None
    """The `Retry-After` header of a refusal, as it is written, also when it is nonsense; empty
    leaves it out. Either way no other header names an instant."""
    reason: str | None = None
    """For answers withheld and error frames: the vendor's own word (`RECITATION`, `cyber`,
    `api_error`); None: its most usual one."""
    billed: bool = False
    """The vendor did the work and bills the whole answer, whatever the client saw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallScript:
    """A tool call the model makes when the request offers this tool."""

    name: str
    arguments: str = "{}"
    """JSON text, sent as it is (also when it is broken)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScript:
    """How one model of one provider answers."""

    quotas: tuple[Quota, ...] = ()
    price: Price = Price()
    first_token_ms: int = 0
    chunk_interval_ms: int = 0
    """Between two pieces; 0 sends the whole answer in one write (a burst)."""
    tokens_per_second: int | None = None
    """Instead of `chunk_interval_ms`."""
    chunks: int | None = None
    """Pieces of an answer; None: one a word, and 12 words for the default text."""
    text: str | None = None
    """None: words that name the model and the request (`answer.default_text`)."""
    replies: Mapping[str, str] = field(default_factory=dict)
    """Instead of `text`, for requests whose last message contains the key; first match wins."""
    obeys_format: bool = True
    """False: it answers its text even where JSON, or a schema, is asked for."""
    reasoning: str = ""
    """Told before the text, as the vendor tells reasoning; billed as output."""
    tool_calls: tuple[ToolCallScript, ...] = ()
    calls_first_tool: bool = False
    """Calls the first tool offered, with the least arguments that fit its schema."""
    cached_input_percent: int = 0
    cache_write_percent: int = 0
    """Of the input that was not read from the cache; told by vendors that charge for it."""
    context_window_tokens: int | None = None
    concurrent_max: int | None = None
    bills_after_disconnect: bool = False
    """A client that leaves pays the whole answer, as at several vendors."""
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderScript:
    """One vendor: its models, its account, its way of speaking."""

    models: Mapping[str, ModelScript]
    vendor: str | None = None
    """Whose errors and habits it has (`vendors.py`); None: the one of its name, else openai."""
    dialect: Literal["openai", "anthropic", "gemini"] | None = None
    """What it speaks at home; None: as its vendor. A call to another dialect's path is answered
    in that one, with the errors of the vendor whose dialect it is."""
    quotas: tuple[Quota, ...] = ()
    """Of the account: shared by all its models."""
    api_keys: tuple[str, ...] = ()
    """Keys that are let in; none stated: any key."""
    faults: tuple[Fault, ...] = ()
    """Of every model, numbered by each model's own requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """All that a simulator plays."""

    providers: Mapping[str, ProviderScript]
    seed: int = 0
