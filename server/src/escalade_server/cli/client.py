"""Calls a server as any client does: the public SDK, and its errors as one sentence."""

import os
from pathlib import Path

import escalade
from escalade_server.cli.output import CommandError, Exit

DEFAULT_TARGET = "127.0.0.1:50051"


TOKEN, CA = "ESCALADE_TOKEN", "ESCALADE_TLS_CA"


def connect(target: str) -> escalade.Client:
    """Make a client with the credentials of the environment, if there are any.

    `ESCALADE_TOKEN` is the bearer token; `ESCALADE_TLS_CA` a PEM file of the authority to trust,
    which also switches TLS on. They are no options: what is typed stays in histories.
    """
    token, tls = _credentials()
    return escalade.Client(target, token=token, tls=tls)


def connect_async(target: str) -> escalade.AsyncClient:
    """Make a client for an event loop, likewise."""
    token, tls = _credentials()
    return escalade.AsyncClient(target, token=token, tls=tls)


def _credentials() -> tuple[str | None, escalade.Tls | bool]:
    token, authority = os.environ.get(TOKEN) or None, os.environ.get(CA)
    if not authority:
        return token, False
    try:
        return token, escalade.Tls(root_certificates=Path(authority).read_bytes())
    except OSError as error:
        raise CommandError(f"{CA}: {authority} cannot be read: {error.strerror}.") from error


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
