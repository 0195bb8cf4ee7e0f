"""Write the synchronous client, `_sync/`, from the asyncio one, `_async/`, by a table of words.

    python client_sdk/unasync.py            write
    python client_sdk/unasync.py --check    fail if what is there is not what would be written

A rule that changes nothing is an error: the table says what the sources need, and no more.
"""

import re
import sys
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent / "src" / "escalade"
SOURCE, TARGET = PACKAGE / "_async", PACKAGE / "_sync"
HEADER = (
    "# Generated from ../_async/{name} by client_sdk/unasync.py; change that, then `make gen`.\n"
)

# Whole words, applied to every line in this order.
RULES = (
    (
        "The asyncio client; the synchronous one is generated from it by client_sdk/unasync.py.",
        "The synchronous client.",
    ),
    ("Opened when needed: asyncio's want a running loop.", "Opened when needed."),
    ("One task reads", "One thread reads"),
    ("import asyncio\n", ""),
    ("asyncio.sleep", "time.sleep"),
    ("import grpc.aio\n", ""),
    ("grpc.aio", "grpc"),
    ("_async", "_sync"),
    ("async def", "def"),
    ("async with", "with"),
    ("async for", "for"),
    ("await ", ""),
    ("AsyncClient", "Client"),
    ("AsyncStream", "Stream"),
    ("AsyncChannels", "Channels"),
    ("AsyncOperations", "Operations"),
    ("AsyncRoute", "Route"),
    ("AsyncChoice", "Choice"),
    ("AsyncOpenAttempt", "OpenAttempt"),
    ("AsyncBidi", "Bidi"),
    ("AsyncBeat", "Beat"),
    ("AsyncIterator", "Iterator"),
    ("StopAsyncIteration", "StopIteration"),
    ("__aenter__", "__enter__"),
    ("__aexit__", "__exit__"),
    ("__aiter__", "__iter__"),
    ("__anext__", "__next__"),
    ("aiter(", "iter("),
    ("anext(", "next("),
)


def made_sync(source: str, uses: Counter[str]) -> str:
    """Apply the rules to a module, counting the uses of each."""
    for word, replacement in RULES:
        before = r"(?<![A-Za-z0-9_])" if word[0].isalpha() else r"(?<![A-Za-z0-9])"
        source, count = re.subn(before + re.escape(word), replacement, source)
        uses[word] += count
    return source


def generate(sources: dict[str, str]) -> dict[str, str]:
    """Make every synchronous module.

    Raises:
        ValueError: A rule was not used, or a word of asyncio is left.
    """
    uses: Counter[str] = Counter()
    made = {
        name: HEADER.format(name=name) + made_sync(text, uses) for name, text in sources.items()
    }
    unused = [word for word, _ in RULES if not uses[word]]
    if unused:
        raise ValueError(f"rules that nobody uses: {unused}")
    left = {
        name: found for name, text in made.items() if (found := _left_over(text.split("\n", 1)[1]))
    }
    if left:
        raise ValueError(f"words without a rule: {left}")
    return made


def _left_over(text: str) -> list[str]:
    return re.findall(r"\b(?:async|await|asyncio|aio|__a[a-z]+__|\w*Async\w*)\b", text)


def main(arguments: list[str]) -> int:
    """Write or check; the exit code says whether all is fresh."""
    made = generate({path.name: path.read_text() for path in sorted(SOURCE.glob("*.py"))})
    there = {path.name: path.read_text() for path in sorted(TARGET.glob("*.py"))}
    if arguments == ["--check"]:
        stale = sorted(name for name in made | there if made.get(name) != there.get(name))
        print(f"not fresh, run `make gen`: {', '.join(stale)}" if stale else "_sync/ is fresh")
        return 1 if stale else 0
    TARGET.mkdir(exist_ok=True)
    for name in there.keys() - made.keys():
        (TARGET / name).unlink()
    for name, text in made.items():
        (TARGET / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
