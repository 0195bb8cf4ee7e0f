"""Takes secrets out of what is written (D6): by what they are, and by what they look like.

Nothing secret should get this far: facts carry none. This is the second lock on that door, for
words of others, such as a provider's refusal that quotes the key it was sent.
"""

import re
from collections.abc import Iterable, Mapping

GONE = "[redacted]"
SHORTEST = 6
"""Known secrets below this length would take innocent words with them."""
_SHAPES = re.compile(
    r"(?P<userinfo>(?<=://)[^/\s@'\"]+(?=@))"  # of a URL
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[\w.~+/=-]{6,}"
    r"|(?P<name>\b(?:(?:proxy-)?authorization|(?:x[-_])?(?:goog[-_])?api[-_]?key|access[-_]?token"
    r"|client[-_]?secret|password|passwd|secret)\b[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic)\s+)?)[^\s\"',;&}]+"
    r"|\besc_[0-9a-f]{1,32}_[0-9a-f]{64}"  # our own tokens
    r"|\b(?:sk|pk|rk|gsk|xai|nvapi|hf|ghp|gho|xox[abps]|r8|pplx|csk|fw)[-_][\w-]{16,}"
    r"|\bAIza[\w-]{30,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",  # JSON web tokens
    re.IGNORECASE,
)


class Redactor:
    """Knows some secrets by heart, and the shapes of others."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Learn these secrets."""
        self._known: re.Pattern[str] | None = None
        self._secrets: set[str] = set()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Learn more secrets, as of a strategy that is put in force."""
        self._secrets |= {secret for secret in secrets if len(secret) >= SHORTEST}
        longest_first = sorted(self._secrets, key=len, reverse=True)
        if longest_first:
            self._known = re.compile("|".join(map(re.escape, longest_first)))

    def text(self, text: str) -> str:
        """Take the secrets out of a text."""
        if self._known is not None:
            text = self._known.sub(GONE, text)
        return _SHAPES.sub(_instead, text)

    def value(self, value: object) -> object:
        """Take the secrets out of a value, however deep they are."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.text(value.decode(errors="replace"))
        if isinstance(value, Mapping):
            return {key: self.value(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(inner) for inner in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.text(str(value))


def _instead(found: re.Match[str]) -> str:
    """Keep what stands before a secret, so that people see what it was."""
    return f"{found['scheme'] or found['name'] or ''}{GONE}"
