"""The limit on output that a request sets for itself."""

from collections.abc import Iterable, Mapping

import msgspec


def output_limit(members: Mapping[str, msgspec.Raw], names: Iterable[str]) -> int | None:
    """Return the limit on output tokens that the members of these names set; None where none is reliable.

    Of several the largest counts. A value that is no whole number above 0 may mean anything to an upstream,
    or nothing, and so may one that stands beside it.
    """
    limits = [whole_number(members[name]) for name in names if is_said(members, name)]
    known = [limit for limit in limits if limit is not None]
    return max(known) if known and len(known) == len(limits) else None


def is_said(members: Mapping[str, msgspec.Raw], name: str) -> bool:
    """Return whether there is such a member that is not null."""
    return name in members and bytes(memoryview(members[name])[:5]) != b"null"


def whole_number(raw: msgspec.Raw) -> int | None:
    """Return the number above 0 that a member holds; None for anything else."""
    try:
        number = msgspec.json.decode(raw, type=int)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return number if number > 0 else None
