"""Takes secrets out of what is written (D6): by what they are, and by what they look like.

Nothing secret should get this far: facts carry none. This is the second lock on that door, for
words of others, such as a provider's refusal that quotes the key it was sent.
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

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


_HINTS = (
    "://", "bearer", "basic", "authorization", "key", "token", "secret", "passw", "esc_", "sk-",
    "sk_", "pk-", "pk_", "rk-", "rk_", "xai-", "nvapi-", "hf_", "ghp_", "gho_", "xox", "r8_",
    "pplx-", "csk-", "fw_", "aiza", "eyj",
)  # fmt: skip
"""One of them, in lower case, is in whatever has such a shape: the shapes are looked for then."""


class Redactor:
    """Knows some secrets by heart, and the shapes of others."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Learn these secrets."""
        self._known: tuple[str, ...] = ()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Learn more secrets, as of a strategy that is put in force."""
        known = {*self._known, *(secret for secret in secrets if len(secret) >= SHORTEST)}
        self._known = tuple(sorted(known, key=len, reverse=True))

    def event(self, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Take the secrets out of a line of the log; most have none, and that is seen quickly."""
        texts = [value for value in event.values() if type(value) is str]
        whole = "\n".join(texts)
        plain = self.text(whole) == whole
        for key, value in event.items():
            if not (plain and type(value) is str):
                event[key] = self.value(value)
        return event

    def text(self, text: str) -> str:
        """Take the secrets out of a text."""
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, GONE)
        lower = text.lower()
        if any(hint in lower for hint in _HINTS):
            return _SHAPES.sub(_instead, text)
        return text

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
