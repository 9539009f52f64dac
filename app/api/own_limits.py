"""`/api/user/limits`: what limits a user and the key they came with, and what is left."""

from datetime import tzinfo
from typing import Annotated

from flask import Blueprint, Response, g, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app.accounts.principal import Principal
from app.api.answers import error_answer
from app.api.operation import USER, ApiSection
from app.common.display import json_ready
from app.management.client_keys import ClientKeyAdmin
from app.management.users import UserAdmin
from app.management.views.limits import LimitsView, limits_view

_own = ApiSection("User", access=USER)


class OwnLimitsView(TypedDict):
    """What limits your requests, and what is left of budgets; null: nothing does.

    The limits of the user hold for all of their keys together, those of the key beside them. `rpm` null is
    the usual limit of a key. Amounts are those that are booked: what runs is not in them yet.
    """

    timezone: Annotated[str, Field(description="Where days, weeks and months of budgets begin.")]
    user: LimitsView
    key: LimitsView
    keyExpiresAt: str | None


def add_own_limits(routes: Blueprint, users: UserAdmin, keys: ClientKeyAdmin, tz: tzinfo) -> None:
    """Add the route; whoever asks has been identified before."""

    @routes.get("/limits")
    @_own("Your limits, and what is left", answers=OwnLimitsView)
    def limits() -> Response:
        principal: Principal = g.principal
        user, key = users.find(principal.user_id), keys.find(principal.user_key_id)
        if user is None:
            return error_answer(401, "this user is no more", hint="ask the operator")
        of_key = limits_view(None, None)
        if key is not None:
            of_key = limits_view(key.rpm, key.limits, keys.budgets_left(key))
        return jsonify(
            OwnLimitsView(
                timezone=str(tz),
                user=limits_view(user.rpm, user.limits, users.budgets_left(user)),
                key=of_key,
                keyExpiresAt=json_ready(key.expires_at) if key is not None else None,
            )
        )
