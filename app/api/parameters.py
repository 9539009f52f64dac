"""Query parameters that several routes take, with the rooms' parsers behind them."""

from datetime import datetime, tzinfo
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from app.api.operation import Query
from app.records.log_filter import DEFAULT_LIMIT, MAX_LIMIT
from app.statistics.periods import ADMIN_PERIODS, ALL, Period, parse_period

AdminPeriod = Annotated[
    str,
    AfterValidator(parse_period),
    Field(
        description="`24h` and the like are rolling; `today`, `week` and `month` began at midnight in "
        "`STATS_TIMEZONE`, and so do `yesterday`, `last_month`, a month `YYYY-MM` and a day `YYYY-MM-DD`, "
        "which are whole.",
        json_schema_extra={"anyOf": [{"enum": list(ADMIN_PERIODS)}, {"pattern": r"^\d{4}-\d\d(-\d\d)?$"}]},
    ),
]

Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="How many to show at most.")]
LIMIT_DEFAULT = DEFAULT_LIMIT

Text = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""Something to search for or to select by."""

Cursor = Annotated[
    str | None, Field(description="`nextCursor` of the page before; left out, the first page is shown.")
]

_MOMENT = "A date or time (in `STATS_TIMEZONE` unless it says otherwise), or how long ago: `24h`, `7d`."


class PeriodQuery(Query):
    """Which period: `period`, or `from` and `to`."""

    period: AdminPeriod = ALL
    from_: str | None = Field(None, alias="from", description=f"In place of `period`: not before. {_MOMENT}")
    to: str | None = Field(None, description=f"Before this; left out: up to now. {_MOMENT}")

    def at(self, now: datetime, tz: tzinfo) -> Period:
        """Return the period asked for; raises `FilterError`."""
        name = self.period if "period" in self.model_fields_set else None
        default: str = type(self).model_fields["period"].default
        return Period.asked_for(name, self.from_, self.to, now, tz, default)


class ComparedQuery(PeriodQuery):
    """Which period, and whether beside the one before."""

    compare: Annotated[
        Literal["previous"] | None,
        Field(
            description="The whole period before as well: the day, week or month before, else as long a time "
            "just before this one. CSV has columns of it (`previousRequestCount`, …)."
        ),
    ] = None

    @property
    def is_compared(self) -> bool:
        """Whether the period before is asked for."""
        return self.compare is not None


_From = TypedDict("_From", {"from": str | None})


class PeriodView(_From):
    """Which time an answer is of: `from` (null: from the beginning) to `to`, exclusive, in UTC.

    `period` is what was asked for, null where that was `from` and `to`. Days begin at midnight in `timezone`.
    """

    period: str | None
    to: str
    timezone: str
