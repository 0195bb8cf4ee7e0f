"""Accounts: one key of a provider or several, each with its own state (R18, R34).

Rules of the file:
1. A provider without `accounts:` has one, named ``default``, with the key the provider states.
2. A model without `account:` is offered on every account of its provider, in their order.
3. Rate limits count by account, or by `quota_group` where accounts share the vendor's project
   (G10); money counts over all accounts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from escalade_server.core.catalog import DEFAULT_ACCOUNT
from escalade_server.strategy import model as config

CapKey = tuple[str, str]
"""Provider and model, over all accounts."""


@dataclass(frozen=True, slots=True)
class Cap:
    """What all calls of a model may cost in a month that begins on ``day``."""

    nanos: int
    day: int


@dataclass(frozen=True, slots=True)
class Seat:
    """One model entry on one account of its provider."""

    entry: config.Model
    number: int
    """Place of the entry in its layer."""
    account: str
    group: str | None
    zone: str | None
    """Where its calendar windows end, if the file says so."""
    rate_limit: config.RateLimit | None
    """Of the account, over all its models."""
    concurrency: int | None = None
    """Calls of the account at once."""

    @property
    def owner(self) -> str:
        """Whose rate limits it counts against; a group's name cannot be a provider's."""
        return f"@{self.group}" if self.group else f"{self.entry.provider}/{self.account}"

    @property
    def owner_label(self) -> str:
        """The same for people."""
        return f"quota group {self.group}" if self.group else self.owner

    @property
    def model_label(self) -> str:
        """Name the model, and whose quota it is where there can be several."""
        label = self.group or self.account
        return self.entry.model if label == DEFAULT_ACCOUNT else f"{self.entry.model} ({label})"


def accounts_of(own: config.Provider | None) -> Mapping[str, config.Account]:
    """List the accounts of a provider by name, in the order of the file."""
    if own is None:
        return {DEFAULT_ACCOUNT: config.Account()}
    if own.accounts:
        return own.accounts
    key = config.Account(api_key_env=own.api_key_env, api_key_file=own.api_key_file)
    return {DEFAULT_ACCOUNT: key}


def seats(strategy: config.Strategy, layer: config.Layer) -> Iterator[Seat]:
    """Spread the entries of a layer over the accounts they are offered on, in order."""
    for number, entry in enumerate(layer.models):
        own = strategy.providers.get(entry.provider)
        for name, account in accounts_of(own).items():
            if entry.account in {None, name}:
                yield Seat(
                    entry,
                    number,
                    name,
                    account.quota_group or (own.quota_group if own else None),
                    account.reset_zone or (own.reset_zone if own else None),
                    account.rate_limit or (own.rate_limit if own else None),
                    account.concurrency,
                )


def caps(strategy: config.Strategy) -> dict[CapKey, Cap]:
    """Find the monthly cap of each model; it holds over all its accounts (R18)."""
    found: dict[CapKey, Cap] = {}
    for layer in strategy.layers:
        for entry in layer.models:
            if entry.cap_nanos is not None:
                found.setdefault((entry.provider, entry.model), cap(strategy, layer, entry))
    return found


def cap(strategy: config.Strategy, layer: config.Layer, entry: config.Model) -> Cap:
    """Read an entry's own cap, which it must have."""
    assert entry.cap_nanos is not None
    return Cap(entry.cap_nanos, entry.cap_resets or layer.cap_resets or strategy.cap_resets or 1)
