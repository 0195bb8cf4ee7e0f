"""Small conversions between the wire's words and Python's: enums, money, instants."""

from datetime import UTC, datetime
from decimal import Decimal

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

NANOS_IN_USD = 10**9


def name_of(enum: EnumDescriptor, value: int) -> str:
    """Name a value of an enum without its prefix; empty for unspecified.

    A value that a newer server sends and these stubs do not know is named by its number.
    """
    if value == 0:
        return ""
    known = enum.values_by_number.get(value)
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return known.name.removeprefix(prefix) if known else str(value)


def usd_of(nanos: int) -> Decimal:
    """Turn nano-dollars into dollars, exactly, without trailing zeros."""
    whole, part = divmod(abs(nanos), NANOS_IN_USD)
    text = f"{whole}.{part:09d}".rstrip("0").rstrip(".")
    return Decimal(text if nanos >= 0 else f"-{text}")


def instant_of(timestamp: Timestamp) -> datetime:
    """Turn a timestamp of the wire into an aware instant in UTC."""
    return timestamp.ToDatetime(tzinfo=UTC)


def one_line(text: str) -> str:
    """Fold text for people into one printable line: it may hold what a provider wrote."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
