"""Loads a strategy: text to catalog, endpoints, notices; or one exception with every error."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path as File

from escalade_server.core.catalog import DEFAULT_ACCOUNT, Catalog
from escalade_server.strategy import model as config
from escalade_server.strategy.accounts import accounts_of, seats
from escalade_server.strategy.advice import Lines, advise
from escalade_server.strategy.credentials import (
    NOT_NEEDED,
    Credential,
    Secret,
    from_environment,
    from_file,
)
from escalade_server.strategy.errors import (
    Level,
    Notice,
    NotYetInEffect,
    StrategyError,
    StrategyErrors,
)
from escalade_server.strategy.not_yet import not_yet_in_effect
from escalade_server.strategy.notifications import Sinks, sink_notices, sinks
from escalade_server.strategy.quality import PatternError, no_pattern, refused_patterns
from escalade_server.strategy.resolve import Resolver, Surroundings, ordered, vendor_of
from escalade_server.strategy.shared_quota import shared_quotas
from escalade_server.strategy.unshown import unshown
from escalade_server.strategy.validate import TOP, raw_providers, validate
from escalade_server.strategy.vendors import VENDORS
from escalade_server.strategy.yaml_nodes import SIZE_BYTES_MAX, Document, parse

BUILT_DIALECTS = frozenset({"openai", "anthropic", "gemini"})
LOOPBACK = ("127.", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one account of a provider is called. ``missing`` says why there is no key, if so."""

    provider: str
    account: str
    base_url: str
    dialect: str
    secret: Secret | None
    missing: str = ""
    connect_ms: int | None = None
    """How long a connection may take; None: as the strategy says."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A strategy that loads, with all there is to say of it.

    ``endpoints`` holds the providers that models of the file use, by (provider, account).
    """

    file: str
    catalog: Catalog
    endpoints: Mapping[tuple[str, str], Endpoint]
    notices: tuple[Notice, ...]
    not_yet_in_effect: tuple[NotYetInEffect, ...]
    state_url: str | None
    version: str
    """As the file states it; empty without one."""
    sha256: str
    """Of the file's bytes, in hexadecimal."""
    key_files: tuple[File, ...]
    """Where keys were looked for, beside the environment."""
    sinks: Sinks
    """Where notices go."""
    text: bytes = field(default=b"", repr=False)
    """The file's bytes."""


def load(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str],
    built_dialects: frozenset[str] = BUILT_DIALECTS,
    pattern_error: PatternError = no_pattern,
    assume_keys: bool = False,
    today: date | None = None,
) -> Loaded:
    """Load a strategy file.

    Args:
        path: The file; key files with relative names are looked for beside it.
        environ: Environment variables, for keys and ``${NAME}`` placeholders.
        built_dialects: Wire protocols that this server speaks; models of others are absent.
        pattern_error: Says why a pattern of a gate cannot be used; default asks Python's engine.
        assume_keys: Builds the catalog as if every key were there (R12, ``explain``).
        today: The day from which on prices must hold; default is today in UTC.

    Raises:
        StrategyErrors: with everything that is wrong; nothing of such a file is used.
    """
    name = os.fspath(path)
    try:
        with File(name).open("rb") as file:
            text = file.read(SIZE_BYTES_MAX + 1)
    except OSError as error:
        problem = f"the file cannot be read: {error.strerror}"
        raise StrategyErrors([StrategyError(name, 0, 0, "", problem)]) from None
    return loads(
        text,
        file=name,
        environ=environ,
        built_dialects=built_dialects,
        pattern_error=pattern_error,
        assume_keys=assume_keys,
        today=today,
    )


def loads(
    text: str | bytes,
    *,
    file: str = "strategy.yaml",
    environ: Mapping[str, str],
    built_dialects: frozenset[str] = BUILT_DIALECTS,
    pattern_error: PatternError = no_pattern,
    assume_keys: bool = False,
    today: date | None = None,
    placeholders: Mapping[str, str] | None = None,
) -> Loaded:
    """Load a strategy from text; arguments and errors as ``load``.

    ``placeholders`` are the variables that ``${NAME}`` may name; default is all of ``environ``.
    """
    known = environ if placeholders is None else placeholders
    with unshown(text, known):
        document = parse(text, file, known)
        strategy = config.merged(validate(document))
        credentials = resolve_credentials(strategy, environ, File(file).parent)
        day = today or datetime.now(UTC).date()
        around = Surroundings(credentials, built_dialects, assume_keys, day)
        resolver = Resolver(document, strategy, around)
        catalog = resolver.catalog()
        errors = [*resolver.errors, *refused_patterns(document, strategy, pattern_error)]
        if errors:
            raise StrategyErrors(errors)
        refuse_unmet_needs(document, catalog)
        told = sinks(strategy, environ, File(file).parent)
        return Loaded(
            file=file,
            catalog=catalog,
            endpoints=endpoints(strategy, catalog, credentials),
            notices=tuple(
                dict.fromkeys(  # what holds on every account is said once
                    (
                        *resolver.notices,
                        *provider_notices(document, strategy, credentials),
                        *sink_notices(document, told),
                        *advise(catalog, lines_of(document, strategy, catalog)),
                    )
                )
            ),
            not_yet_in_effect=tuple(not_yet_in_effect(document)),
            state_url=strategy.state.url if strategy.state else None,
            version=strategy.version or "",
            sha256=hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest(),
            key_files=key_files(strategy, credentials, File(file).parent),
            sinks=told,
            text=text if isinstance(text, bytes) else text.encode(),
        )


Credentials = Mapping[tuple[str, str], Credential]
"""By provider and account."""


def resolve_credentials(
    strategy: config.Strategy, environ: Mapping[str, str], folder: File
) -> dict[tuple[str, str], Credential]:
    """Find the key of every account that a model uses, or why there is none."""
    used = {
        (seat.entry.provider, seat.account)
        for layer in strategy.layers
        for seat in seats(strategy, layer)
    }
    return {
        (name, account): credential(name, account, strategy.providers.get(name), environ, folder)
        for name, account in sorted(used)
    }


def key_files(strategy: config.Strategy, used: Credentials, folder: File) -> tuple[File, ...]:
    """List the files of the keys that models use."""
    accounts = [accounts_of(strategy.providers.get(name))[label] for name, label in used]
    return tuple(folder / key.api_key_file for key in accounts if key.api_key_file)


def credential(
    name: str,
    account: str,
    own: config.Provider | None,
    environ: Mapping[str, str],
    folder: File,
) -> Credential:
    """Find the key of one account: as stated, else by the vendor's usual name.

    No key is asked for where nobody checks one: at a local vendor, at an address of the file's
    own on this machine, and at a provider that the file adds without naming a key.
    """
    key = accounts_of(own)[account]
    if key.api_key_file:
        return from_file(folder / key.api_key_file)
    if key.api_key_env:
        return from_environment((key.api_key_env,), environ)
    names = VENDORS[name].key_names if name in VENDORS else ()
    if not names:
        return NOT_NEEDED
    found = from_environment(names, environ)
    if found.secret is None and own is not None and is_loopback(own.base_url or ""):
        return NOT_NEEDED
    return found


def is_loopback(base_url: str) -> bool:
    """Whether an address is on this machine."""
    return base_url.partition("://")[2].startswith(LOOPBACK)


def endpoints(
    strategy: config.Strategy, catalog: Catalog, credentials: Credentials
) -> dict[tuple[str, str], Endpoint]:
    """List where the models of the file are called."""
    found = {}
    for provider, account in {(model.provider, model.account) for model in catalog.models}:
        own = strategy.providers.get(provider)
        vendor, times = vendor_of(provider, own), own.timeouts if own else None
        key = credentials[provider, account]
        where = (provider, account, vendor.base_url, vendor.dialect)
        found[provider, account] = Endpoint(
            *where, key.secret, key.missing, times.connect if times else None
        )
    return dict(sorted(found.items()))


def provider_notices(
    document: Document, strategy: config.Strategy, credentials: Credentials
) -> list[Notice]:
    """Say what is missing or careless about keys and addresses."""
    stated, found = raw_providers(document), []

    def line_of(where: tuple[str, str]) -> int:
        path, _ = stated.get(where[0], ((), {}))
        return document.line((*path, "accounts", where[1])) or document.line(path)

    for (name, account), key in credentials.items():
        line = line_of((name, account))
        if key.missing:
            whose = f"{name} ({account})" if account != DEFAULT_ACCOUNT else name
            sentence = f"{whose} has no usable key: {key.missing}."
            found.append(Notice(Level.WARNING, "NO_KEY", line, sentence))
        if key.warning:
            mend = "Set its mode to 0600."
            found.append(Notice(Level.WARNING, "KEY_FILE_MODE", line, f"{key.warning}.", mend))
        own = strategy.providers.get(name)
        url = (own.base_url if own else None) or ""
        if key.secret is not None and url.startswith("http://") and not is_loopback(url):
            sentence = f"the key of {name} travels unencrypted to its base_url."
            found.append(Notice(Level.WARNING, "PLAIN_HTTP", line, sentence, "Use https."))
    return [*found, *shared_quotas(document, strategy, credentials, line_of)]


def lines_of(document: Document, strategy: config.Strategy, catalog: Catalog) -> Lines:
    """Say where each model and each layer stands."""
    lines: Lines = {}
    for resolved, (place, layer) in zip(catalog.layers, ordered(strategy.layers), strict=True):
        path = (TOP, "layers", place)
        lines[layer.name] = document.spot(path).line
        for seat, model in zip(seats(strategy, layer), resolved.models, strict=True):
            lines[model.key] = document.line((*path, "models", seat.number, "model"))
    return lines


def refuse_unmet_needs(document: Document, catalog: Catalog) -> None:
    """Under ``require`` a need that no model meets would refuse every such task (R2).

    Raises:
        StrategyErrors: naming the task types.
    """
    if not catalog.rules.require_capability:
        return
    declared = frozenset(word for model in catalog.models for word in model.capabilities)
    unmet = {
        kind.name: kind.needs
        for kind in catalog.task_types.values()
        if kind.needs and not kind.needs & declared
    }
    path = ("capability_matching",)
    place = path if path in document.keys else (TOP, *path)
    errors = [
        document.error(
            place,
            f'no model can do "{name}" tasks, and matching is required',
            '"require"',
            f"one of {', '.join(sorted(needs))} on some model",
            f"declare one, or write `task_types: {{{name}: {{capabilities: []}}}}`",
        )
        for name, needs in sorted(unmet.items())
    ]
    if errors:
        raise StrategyErrors(errors)
