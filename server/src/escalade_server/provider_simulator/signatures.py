"""Signatures of opaque state: what a model signed comes back as it was, or is refused.

A signature is bound to the model that gave it and to what it signed, so that a caller who hands
one vendor's state to another model, or alters it, is found out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

KEY = b"simulated"


def sign(model: str, content: str) -> str:
    """The signature of `content` by `model`, in base64."""
    digest = hmac.digest(KEY, f"{model}\n{content}".encode(), hashlib.sha256)
    return base64.b64encode(b"\x12" + digest).decode()


def is_signed(signature: str, model: str, content: str) -> bool:
    """Whether `signature` is that of `content` by `model`."""
    return hmac.compare_digest(signature.encode(), sign(model, content).encode())
