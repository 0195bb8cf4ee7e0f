"""The only place where chance is drawn."""

import secrets


class SystemEntropy:
    """Chance from the operating system."""

    @staticmethod
    def task_id() -> str:
        """Answer a fresh id, 16 random bytes as 32 hex digits; never all zero in practice."""
        return secrets.token_hex(16)

    @staticmethod
    def jitter_ms(limit_ms: int) -> int:
        """Answer a delay of 0 to ``limit_ms``, both possible."""
        return secrets.randbelow(limit_ms + 1)

    @staticmethod
    def key_id() -> str:
        """Answer a fresh name of a token, 8 random bytes as 16 hex digits; it is no secret."""
        return secrets.token_hex(8)

    @staticmethod
    def secret() -> str:
        """Answer a fresh secret, 256 random bits as 64 hex digits."""
        return secrets.token_hex(32)
