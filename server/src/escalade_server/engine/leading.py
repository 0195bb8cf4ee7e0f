"""Who of several servers does what one is enough for: here, the only one."""

from escalade_server.engine.ports import Duty


class Alone:
    """``Leadership`` of a server that shares its ledger with no other."""

    def holds(self, duty: Duty) -> bool:  # noqa: ARG002  # a port's method
        """It has every duty."""
        return True
