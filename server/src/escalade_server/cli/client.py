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
    token, tls = _credentials(target)
    return escalade.Client(target, token=token, tls=tls)


def connect_async(target: str) -> escalade.AsyncClient:
    """Make a client for an event loop, likewise."""
    token, tls = _credentials(target)
    return escalade.AsyncClient(target, token=token, tls=tls)


def _credentials(target: str) -> tuple[str | None, escalade.Tls | bool]:
    if ":" not in target or target.startswith(("http://", "https://", "grpc://")):
        raise CommandError(
            f"--target {target} is no address: write HOST:PORT, such as {DEFAULT_TARGET}.",
            Exit.USAGE,
        )
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
        sentence = error.message if target in error.message else f"{target}: {error.message}"
        mend = " Start `escalade serve`, or give another --target."
        if not sentence.endswith("?"):
            mend = "; ask again when it is back."
        return CommandError(sentence + mend, Exit.UNREACHABLE)
    if isinstance(error, escalade.UsageError):
        return CommandError(f"{error.message}.", Exit.USAGE)
    message = error.message.replace(" REQUEST_ID", f" {error.request_id or 'REQUEST_ID'}")
    sentence = f"{error.reason or type(error).__name__}: {message}"
    if isinstance(error, escalade.CallerUnknown):
        sentence += f"; commands read it from {TOKEN}"
    if error.retry_at is not None:
        sentence += f" Try again at {error.retry_at:%Y-%m-%d %H:%M:%S} UTC."
        return CommandError(sentence, Exit.TRY_LATER)
    return CommandError(sentence)
