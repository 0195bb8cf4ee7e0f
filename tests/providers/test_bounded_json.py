"""What of JSON is refused before it is read, and that the short way refuses the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.providers.bounded_json import DEPTH_MAX, TOKENS_MAX, Alike, is_sound


@pytest.mark.fault("U20")
@pytest.mark.parametrize(
    ("text", "sound"),
    [
        (r'{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}', True),
        (r'{"a":1,"a":1}', False),
        (r'{"a" :1, "a"  :2}', False),
        (r'{"x":[{"a":1,"b":[],"a":{}}]}', False),
        (r'{"x":{"y":{}},"x":0}', False),
        (r'{"a":1,"\u0061":1}', False),
        (r'{"a\"":1,"a\\":1}', True),
        (r'{"a":"\"a\":1,\"a\":1"}', True),
        ("[" * DEPTH_MAX + "]" * DEPTH_MAX, True),
        ("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1), False),
        ('{"a":"' + '[\\"' * 1_000 + '"}', True),
        ("[" + "{}," * TOKENS_MAX + "{}]", False),
    ],
)
def test_a_key_twice_and_deep_nesting_are_refused(text: str, sound: bool) -> None:  # noqa: FBT001 - of the table
    assert is_sound(text.encode()) is sound
    assert Alike().is_sound(text.encode()) is sound


def chunk(text: str, odd: str = "") -> bytes:
    escaped = json.dumps(text)
    return f'{{"id":"x","choices":[{{"delta":{{"content":{escaped}}}{odd}}}],"pad":"y"}}'.encode()


@pytest.mark.fault("U20")
@pytest.mark.parametrize(
    "odd", [',"delta":{}', ',"n":1,"n":2', ',"n":' + "[" * 99 + "]" * 99, ',"delta" :{}']
)
@pytest.mark.parametrize("text", ["", "plain", 'with "quotes"', "\\", '\\"', "a:b"])
def test_after_frames_that_are_alike_an_odd_one_still_shows(text: str, odd: str) -> None:
    alike = Alike()

    assert all(alike.is_sound(chunk(word)) for word in ("one", "two", text, text))
    assert not alike.is_sound(chunk(text, odd))
    assert alike.is_sound(chunk(text))


parts = st.sampled_from(
    ['{"a":"', '","b":"', '"}', '"', "\\", '\\"', ":", ",", "[", "]", "{", "}", "x", '"a"']
)


@given(
    texts=st.lists(st.lists(parts, max_size=9).map("".join), max_size=6),
    tails=st.lists(st.lists(parts, max_size=4).map("".join), min_size=1, max_size=2),
)
def test_the_short_way_says_the_same_of_all_that_is_json(
    texts: list[str], tails: list[str]
) -> None:
    alike = Alike()
    for text in texts:
        for tail in tails:
            frame = f'{{"a":"{text}","b":1{tail}}}'
            try:
                json.loads(frame)
            except ValueError:
                continue
            assert alike.is_sound(frame.encode()) == is_sound(frame.encode()), frame


@pytest.mark.parametrize("frame", [b"", b"\0", b"\0\0", b'{"a":"', b'{"a":"\\', b'{"a":"x'])
def test_what_ends_too_soon_is_not_sound_by_the_short_way(frame: bytes) -> None:
    alike = Alike()
    assert not alike.is_sound(frame)
    assert alike.is_sound(b'{"a":"x"}')
    assert alike.is_sound(b'{"a":"y"}')
    assert not alike.is_sound(frame)
