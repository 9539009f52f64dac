"""Query parameters that several routes take, with the parsers of the core behind them."""

from typing import Annotated

from pydantic import AfterValidator, Field

from app.core.log_filter import DEFAULT_LIMIT, MAX_LIMIT
from app.core.periods import ADMIN_PERIODS, USER_PERIODS, parse_period


def _user_period(text: str) -> str:
    return parse_period(text, USER_PERIODS)


AdminPeriod = Annotated[
    str,
    AfterValidator(parse_period),
    Field(
        description="`24h` and the like are rolling; `today` begins at midnight in `STATS_TIMEZONE`.",
        json_schema_extra={"enum": list(ADMIN_PERIODS)},
    ),
]
UserPeriod = Annotated[
    str,
    AfterValidator(_user_period),
    Field(description="How far back, from now.", json_schema_extra={"enum": list(USER_PERIODS)}),
]

Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="How many to show at most.")]
LIMIT_DEFAULT = DEFAULT_LIMIT

Text = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""Something to search for or to select by."""

Cursor = Annotated[
    str | None, Field(description="`nextCursor` of the page before; left out, the first page is shown.")
]
