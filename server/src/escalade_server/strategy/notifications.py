"""Where notices go: the addresses of webhooks, which are secrets and stand outside the file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from escalade_server.strategy import model as config
from escalade_server.strategy.credentials import (
    Credential,
    Secret,
    from_environment,
    from_file,
)
from escalade_server.strategy.errors import Level, Notice
from escalade_server.strategy.validate import TOP
from escalade_server.strategy.yaml_nodes import Document

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
NO_ADDRESS = "name the variable or file of its address with url_env or url_file"


@dataclass(frozen=True, slots=True)
class Hook:
    """One webhook. ``missing`` says why it cannot be used, if so; ``name`` is for people."""

    name: str
    slack: bool
    url: Secret | None
    key: Secret | None = None
    """Signs what is sent; None: nothing is signed."""
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Sinks:
    """Where notices go."""

    hooks: tuple[Hook, ...] = ()
    log: bool = True


def sinks(strategy: config.Strategy, environ: Mapping[str, str], folder: Path) -> Sinks:
    """Find the sinks of a strategy; without any stated, that is the log."""
    stated = strategy.notifications
    if stated is None:
        return Sinks()
    return Sinks(tuple(_hook(hook, environ, folder) for hook in stated.webhooks), stated.log)


def sink_notices(document: Document, found: Sinks) -> Iterator[Notice]:
    """Say which webhooks cannot be used."""
    path = (TOP, "notifications")
    line = document.line(path) or document.line(path[1:])
    for hook in found.hooks:
        if hook.missing:
            sentence = f"webhook {hook.name} is not used: {hook.missing}."
            yield Notice(Level.WARNING, "NO_WEBHOOK", line, sentence)


def _hook(hook: config.Webhook, environ: Mapping[str, str], folder: Path) -> Hook:
    name = hook.url_env or hook.url_file or "without an address"
    slack = hook.body == "slack"
    url = _secret(hook.url_env, hook.url_file, environ, folder)
    key = _secret(hook.secret_env, hook.secret_file, environ, folder)
    missing = NO_ADDRESS if url is None else url.missing or _refusal(url.secret)
    if key is not None and key.missing:
        missing = missing or f"what signs its notices cannot be read: {key.missing}"
    if missing or url is None:
        return Hook(name, slack, None, None, missing)
    return Hook(name, slack, url.secret, key.secret if key else None)


def _secret(
    variable: str | None, file: str | None, environ: Mapping[str, str], folder: Path
) -> Credential | None:
    if file:
        return from_file(folder / file)
    return from_environment((variable,), environ) if variable else None


def _refusal(url: Secret | None) -> str:
    """Say why an address is not used; never which it is."""
    try:
        parts = urlsplit(url.reveal() if url else "")
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return "its address is none"
    if not host or parts.username is not None:
        return "its address is none, or holds a name and password"
    if parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK):
        return ""
    return "its address must begin with https://, beyond this machine"
