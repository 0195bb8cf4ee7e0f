"""Whether a state is leased in chunks: a setting in its URL, `leases=on` (quotas C10)."""

from escalade_server.bootstrap.options import StartError

_ON = {"leases=on": True, "leases=off": False}


def leased(state: str) -> tuple[str, bool]:
    """Take the setting out of a state; `escalade.db?leases=on`, `redis://HOST?leases=on&...`.

    Raises:
        StartError: it is set to something else.
    """
    place, mark, query = state.partition("?")
    if not mark:
        return state, False
    settings = query.split("&")
    others = [each for each in settings if not each.startswith("leases=")]
    if len(others) == len(settings):
        return state, False
    found = [each for each in settings if each not in others]
    if len(found) > 1 or found[0] not in _ON:
        raise StartError("the state's setting leases is on or off")
    return f"{place}?{'&'.join(others)}" if others else place, _ON[found[0]]


def journals_of(path: str | None, journal: str | None, *, is_server: bool) -> str:
    """Say where the journals of leases are.

    Raises:
        StartError: there is no place for them.
    """
    if is_server and journal is None:
        raise StartError(
            "leases=on keeps what is spent in a local file: add journal=FILE to the state's URL"
        )
    beside = journal if is_server else path
    if beside is None:
        raise StartError("state in memory is not leased: take leases=on away")
    return f"{beside}.leases"
