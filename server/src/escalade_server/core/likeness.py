"""How alike two questions are, told from 64 bits: nothing of a question is kept but these (R29).

A SimHash: each word, and each pair of neighbours, votes with the bits of its own hash, and the
majority decides each bit; texts that share most words differ in few bits (M. Charikar, "Similarity
estimation techniques from rounding algorithms", STOC 2002). Of 64 bits, 3 may differ (G. Manku,
A. Jain, A. Das Sarma, "Detecting near-duplicates for web crawling", WWW 2007). The words are hashed
with a key, so that who reads the bits cannot try out questions on them.
"""

import hashlib
import re
from itertools import pairwise

BITS_MAX = 3
"""So many bits may differ between two ways to put one question."""
WORDS_MIN = 5
"""A shorter one, such as "Go on.", says too little to be known again."""
WORDS_MAX = 200
CHARS_MAX = 4_000
NO_QUESTION = 0
_WORD = re.compile(r"\w+")


def bits_of(text: str, salt: bytes) -> int:
    """Hash the beginning of a question; ``NO_QUESTION`` if it is too short to judge."""
    words = _WORD.findall(text[:CHARS_MAX].casefold())[:WORDS_MAX]
    if len(set(words)) < WORDS_MIN:
        return NO_QUESTION
    voters = {*words, *map(" ".join, pairwise(words))}
    # All 64 counts are added at once: as digits, 16 bits apart, of one number.
    votes = sum([_spread(key_of(salt, voter)) for voter in voters])
    half = len(voters)
    counts = votes.to_bytes(128, "little")
    bits = 0
    for place in range(64):
        ones = int.from_bytes(counts[2 * place : 2 * place + 2], "little") - half * _ZERO
        bits |= (2 * ones > half) << place
    return bits or 1


def _spread(key: int) -> int:
    return int.from_bytes(f"{key:064b}".encode("utf-16-le"), "little")


_ZERO = ord("0")


def are_alike(one: int, other: int) -> bool:
    """Tell whether two hashes are of one question, in other words or not."""
    if NO_QUESTION in (one, other):
        return False
    return (one ^ other).bit_count() <= BITS_MAX


def key_of(salt: bytes, *parts: str) -> int:
    """Hash parts of a name to 64 bits under a salt; no two lists of parts are written alike."""
    told = hashlib.blake2b(digest_size=8, key=salt)
    for part in parts:
        written = part.encode(errors="surrogatepass")
        told.update(len(written).to_bytes(4, "little"))
        told.update(written)
    return int.from_bytes(told.digest(), "little")
