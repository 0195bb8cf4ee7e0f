"""The only place where chance is drawn."""

import secrets


class SystemEntropy:
    """Chance from the operating system."""

    @staticmethod
    def task_id() -> str:
        """Answer a fresh id, 16 random bytes as 32 hex digits; never all zero in practice."""
        return secrets.token_hex(16)
