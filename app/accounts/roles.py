"""Roles: what somebody may do in the dashboard and over the admin API.

An owner may everything; `admin` is the same role, as version 0.1 and the earlier software write it. Billing
sees everything, changes credit and closes months. A viewer sees everything and changes nothing. A user has
pages of their own and nothing else. No role shows a secret that is stored.
"""

from enum import StrEnum
from typing import Final

USER: Final = "user"
VIEWER: Final = "viewer"
BILLING: Final = "billing"
OWNER: Final = "owner"
ADMIN: Final = "admin"
ROLES: Final = (USER, VIEWER, BILLING, OWNER, ADMIN)
OWNERS: Final = (OWNER, ADMIN)


class Permission(StrEnum):
    """What a route takes of whoever asks."""

    OPEN = "open"
    """Nothing, not even to be logged in."""
    ENTER = "enter"
    """To be logged in, as whomever."""
    OWN = "own"
    """To be a user, whose own affair it is."""
    READ = "read"
    BILL = "bill"
    MANAGE = "manage"
    """All that changes something else, and all that nobody has said more of."""


_GRANTS: Final = {
    USER: frozenset(),
    VIEWER: frozenset({Permission.READ}),
    BILLING: frozenset({Permission.READ, Permission.BILL}),
    OWNER: frozenset({Permission.READ, Permission.BILL, Permission.MANAGE}),
}


def grants(role: str, permission: Permission) -> bool:
    """Return whether this role has this permission over what is not one's own; an unknown role has none."""
    return permission in _GRANTS.get(role_name(role), ())


def role_name(role: str) -> str:
    """Return what a role is called on pages: `admin` is an owner, whatever is unknown a user."""
    if role in OWNERS:
        return OWNER
    return role if role in ROLES else USER


def least_role(permission: Permission) -> str | None:
    """Return the role that can least and has this permission; None where none is needed."""
    return next((role for role in ROLES if permission in _GRANTS.get(role, ())), None)
