"""What 64 bits tell of a question, and what they keep to themselves (R29)."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core import likeness
from escalade_server.core.likeness import BITS_MAX, NO_QUESTION, are_alike, bits_of, key_of

SALT, OTHER = b"a" * 32, b"b" * 32
QUESTION = (
    "The build of the billing service fails on the main branch since this morning. Please find out"
    " which of the commits of the last day broke it, and say how the failing test can be mended"
)
WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=300)


def distance(one: str, other: str) -> int:
    return (bits_of(one, SALT) ^ bits_of(other, SALT)).bit_count()


def test_case_spaces_and_signs_make_no_other_question() -> None:
    assert distance(QUESTION, f"  {QUESTION.upper().replace('.', ' !')}\n") == 0


def test_near_is_alike_and_far_is_not() -> None:
    assert are_alike(bits_of(QUESTION, SALT), bits_of(f"{QUESTION}!", SALT))
    other = "Which of the three designs of the cache is the best one for a laptop, and why is it?"
    assert distance(QUESTION, other) > 4 * BITS_MAX
    assert distance(QUESTION, f"{QUESTION}, please") < distance(QUESTION, other)


def test_too_short_to_be_known_again() -> None:
    for text in ("", "Go on.", "go go go go go on on on now then", "…?!"):
        assert bits_of(text, SALT) == NO_QUESTION
    assert not are_alike(NO_QUESTION, NO_QUESTION)
    assert not are_alike(bits_of(QUESTION, SALT), NO_QUESTION)


def test_another_salt_makes_other_bits_of_the_same_question() -> None:
    assert not are_alike(bits_of(QUESTION, SALT), bits_of(QUESTION, OTHER))
    assert key_of(SALT, "x") != key_of(OTHER, "x")


def test_parts_are_not_written_alike() -> None:
    assert key_of(SALT, "ab", "c") != key_of(SALT, "a", "bc")
    assert key_of(SALT, "a", "") != key_of(SALT, "a")
    assert key_of(SALT, "\ud800") != key_of(SALT, "")


@given(WORDS)
def test_each_bit_is_the_majority_of_its_voters(words: list[str]) -> None:
    bits = bits_of(" ".join(words), SALT)
    told = words[: likeness.WORDS_MAX]
    voters = {*told, *(" ".join(two) for two in pairwise(told))}
    assert 0 <= bits < 1 << 64
    if len(set(told)) < likeness.WORDS_MIN:
        assert bits == NO_QUESTION
        return
    keys = [key_of(SALT, voter) for voter in voters]
    # The bits stand in the reverse order of those of a key.
    for place in range(64):
        ones = sum(key >> (63 - place) & 1 for key in keys)
        assert bits >> place & 1 == (2 * ones > len(keys))
