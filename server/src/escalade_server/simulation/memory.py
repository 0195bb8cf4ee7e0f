"""What is kept of sessions in a run (R29)."""

from escalade_server.core.session import Session


class Memory:
    """Keeps sessions for as long as the run lasts."""

    def __init__(self) -> None:
        """Begin with none."""
        self._kept: dict[str, Session] = {}

    def find(self, key: str, now_ms: int) -> Session | None:
        """Answer a session that is not over."""
        kept = self._kept.get(key)
        return kept if kept is not None and kept.until_ms > now_ms else None

    def put(self, key: str, session: Session) -> None:
        """Keep a session; what is newer stays."""
        before = self._kept.get(key)
        if before is None or before.seen_ms <= session.seen_ms:
            self._kept[key] = session
