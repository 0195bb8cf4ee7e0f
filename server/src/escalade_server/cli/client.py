"""Calls a server as any client does: the public SDK, and its errors as one sentence."""

import escalade
from escalade_server.cli.output import CommandError, Exit

DEFAULT_TARGET = "127.0.0.1:50051"


def refused(error: escalade.EscaladeError, target: str) -> CommandError:
    """Turn an error of the SDK into the end of a command, with its mend and exit code."""
    if isinstance(error, escalade.Unreachable):
        mend = f"nobody serves at {target}: start `escalade serve`, or give another --target"
        return CommandError(f"{mend} ({error.message}).", Exit.UNREACHABLE)
    if isinstance(error, escalade.UsageError):
        return CommandError(f"{error.message}.", Exit.USAGE)
    sentence = f"{error.reason or type(error).__name__}: {error.message}"
    if error.retry_at is not None:
        sentence += f" Try again at {error.retry_at:%Y-%m-%d %H:%M:%S} UTC."
        return CommandError(sentence, Exit.TRY_LATER)
    return CommandError(sentence)
