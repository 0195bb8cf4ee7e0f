"""Quotas that a vendor counts as one and the file counts apart (G10, R18).

What is counted twice is not kept: the task meets the vendor's refusal where the file saw room.
"""

import re
from collections.abc import Callable, Iterator, Mapping

from escalade_server.core.catalog import DEFAULT_ACCOUNT
from escalade_server.strategy import model as config
from escalade_server.strategy.accounts import Seat, seats
from escalade_server.strategy.credentials import Credential
from escalade_server.strategy.errors import Level, Notice
from escalade_server.strategy.resolve import vendor_of
from escalade_server.strategy.validate import TOP
from escalade_server.strategy.vendors import ONE_QUOTA
from escalade_server.strategy.yaml_nodes import Document

CODE = "SHARED_QUOTA"
Account = tuple[str, str]
"""Provider and account."""
LineOf = Callable[[Account], int]


def shared_quotas(
    document: Document,
    strategy: config.Strategy,
    credentials: Mapping[Account, Credential],
    line_of: LineOf,
) -> Iterator[Notice]:
    """Report every quota that is declared in two places without a group, once.

    ``line_of`` says where an account stands.
    """
    limited = [
        (document.line((TOP, "layers", place, "models", seat.number, "model")), seat)
        for place, layer in enumerate(strategy.layers)
        for seat in seats(strategy, layer)
        if _counts(seat.entry.rate_limit) or _counts(seat.rate_limit)
    ]
    owners = {(seat.entry.provider, seat.account): seat.owner for _, seat in limited}
    told = set[Account]()
    for first, second in _twins(strategy, credentials, owners):
        told |= {first, second}
        sentence = (
            f"{_name(first)} and {_name(second)} are one account, by address and key, and their "
            "limits are counted apart."
        )
        mend = "Give both the same `quota_group`."
        yield Notice(Level.WARNING, CODE, line_of(second), sentence, mend)
    yield from _siblings(owners, told, line_of)
    yield from _pools(limited)


def _counts(limits: config.RateLimit | None) -> bool:
    """Whether there is a window among the limits."""
    return limits is not None and any(
        value is not None for name, value in limits if "_per_" in name
    )


def _name(account: Account) -> str:
    return account[0] if account[1] == DEFAULT_ACCOUNT else f"{account[0]} ({account[1]})"


def _twins(
    strategy: config.Strategy,
    credentials: Mapping[Account, Credential],
    owners: Mapping[Account, str],
) -> Iterator[tuple[Account, Account]]:
    """Find accounts with the same address and key that do not count together."""
    seen: dict[tuple[str, str], Account] = {}
    for account, owner in owners.items():
        secret = credentials[account].secret
        if secret is None:
            continue
        url = vendor_of(account[0], strategy.providers.get(account[0])).base_url.rstrip("/")
        first = seen.setdefault((url, secret.reveal()), account)
        if owners[first] != owner:
            yield first, account


def _siblings(
    owners: Mapping[Account, str], told: set[Account], line_of: LineOf
) -> Iterator[Notice]:
    """Report accounts of one provider that may be of one project: vendors count by project."""
    loners: dict[str, list[str]] = {}
    for account, owner in owners.items():
        if owner == "/".join(account) and account not in told:
            loners.setdefault(account[0], []).append(account[1])
    for provider, names in loners.items():
        if len(names) > 1:
            sentence = (
                f"the limits of {provider}'s accounts {', '.join(names)} are counted apart; keys "
                "of one project or organisation share one quota."
            )
            mend = "Give those of one project the same `quota_group`, the others each their own."
            yield Notice(Level.ADVICE, CODE, line_of((provider, names[1])), sentence, mend)


def _pools(limited: list[tuple[int, Seat]]) -> Iterator[Notice]:
    """Report models with limits of their own whose vendor counts them together."""
    pools: dict[Account, dict[str, int]] = {}
    for line, seat in limited:
        entry = seat.entry
        pattern = ONE_QUOTA.get(entry.provider)
        if pattern and re.fullmatch(pattern, entry.model) and not _counts(seat.rate_limit):
            pools.setdefault((entry.provider, seat.account), {})[entry.model] = line
    for (provider, _), lines in pools.items():
        if len(lines) > 1:
            models = " and ".join(lines)
            sentence = f"{provider} counts {models} together, and each has a limit of its own."
            mend = f"State the limit once: `providers: {{{provider}: {{rate_limit: ...}}}}`."
            yield Notice(Level.ADVICE, CODE, max(lines.values()), sentence, mend)
