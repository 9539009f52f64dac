"""OhMyGPT's books beside Weir's, as API and commands show them."""

from typing import Annotated, cast

from pydantic import Field
from typing_extensions import TypedDict

from app.common.display import json_ready
from app.ohmygpt.used_fees import Fees, KeyFees
from app.statistics.periods import Period


class KeyFeesView(TypedDict):
    """A key over the time: what OhMyGPT charged, and what was booked. `key` null: all together."""

    key: str | None
    verdict: Annotated[
        str,
        Field(
            description="`agrees`; `differs`; `unconverted`: OHMYGPT_UNITS_PER_USD is not set; `unknown`: "
            "its used fee is not known at both ends; `reset`: OhMyGPT counts less than before."
        ),
    ]
    usedFee: Annotated[str | None, Field(description="In OhMyGPT's units, as a decimal.")]
    upstreamCostNanoUsd: Annotated[int | None, Field(description="The same in 10⁻⁹ USD.")]
    costNanoUsd: Annotated[int, Field(description="What was booked for it.")]
    driftPercent: Annotated[
        float | None,
        Field(description="The difference in per cent of the larger; above 0 where OhMyGPT has more."),
    ]


_Asked = TypedDict("_Asked", {"period": str | None, "from": str | None, "to": str, "timezone": str})


class UpstreamBooksView(_Asked):
    """Both sides over a period, between two readings; `begins` null: there are no two in it."""

    agrees: bool
    problem: Annotated[str | None, Field(description="Why there is nothing to compare.")]
    begins: str | None
    ends: str | None
    keys: list[KeyFeesView]
    total: KeyFeesView | None


def upstream_books_view(fees: Fees | None, period: Period) -> UpstreamBooksView:
    """Show both sides."""
    view = {
        "agrees": fees is not None and fees.agree,
        "problem": problem_of(fees),
        "begins": json_ready(fees.start) if fees else None,
        "ends": json_ready(fees.end) if fees else None,
        "keys": [_key_view(key) for key in fees.keys] if fees else [],
        "total": _key_view(fees.total) if fees and fees.total else None,
    }
    return cast(UpstreamBooksView, {**period.to_json(), **view})


def problem_of(fees: Fees | None) -> str | None:
    """Say why nothing can be compared, and what to do; None where something can."""
    if fees is None:
        return (
            "there are no two readings of what keys have used in this period: they are kept once an hour "
            "with OHMYGPT_MANAGEMENT_KEY"
        )
    if fees.total is not None:
        return None
    if any(key.used_fee is not None for key in fees.keys):
        return "what OhMyGPT's units are worth is not known: set OHMYGPT_UNITS_PER_USD"
    return "OhMyGPT does not say of any key what it has used"


def _key_view(key: KeyFees) -> KeyFeesView:
    return KeyFeesView(
        key=key.key_id or None,
        verdict=str(key.verdict),
        usedFee=None if key.used_fee is None else f"{key.used_fee:f}",
        upstreamCostNanoUsd=key.upstream_nano,
        costNanoUsd=key.own_nano,
        driftPercent=None if key.drift is None else round(100 * key.drift, 4),
    )
