"""Text from strangers, as bytes: a mark at its start, and what of it is not UTF-8 (U16, U17).

JSON decoders skip what nobody asked for without a look, so whole texts are mended before them.
"""

from typing import Final

BOM: Final = b"\xef\xbb\xbf"
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def is_valid(text: bytes) -> bool:
    """Whether it is UTF-8."""
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def mended(text: bytes) -> tuple[bytes, int]:
    """Put U+FFFD for what is not UTF-8, and count how often; those already there do not count."""
    if is_valid(text):
        return text, 0
    valid = text.decode(errors="replace")
    return valid.encode(), valid.count(_REPLACEMENT) - text.count(_REPLACEMENT.encode())
