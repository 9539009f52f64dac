"""Versions of the model table, explanations of costs, comparisons, as API and commands show them."""

from collections.abc import Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from app.common.display import iso_utc, json_ready
from app.pricing.explanation import ExplainedLine, Explanation
from app.statistics.price_preview import SUMS, Compared, Part, Preview

MOST_ROWS = 1000
_DIGITS = 80

_EXACT = "Exact: worked out from each record, with its tier, its units and its user's factor."
_FROM_SUMS = (
    "Approximate: from hourly sums of text tokens. What was charged is changed by what these cost more, or "
    "less, at the standard prices of the two tables; tiers and other units are left as they were."
)
_LACKS = "Records of this time are missing, or not booked yet: the hourly sums say another cost."


class HostView(TypedDict):
    """A host on which a version is the table now. `actor` is the admin who asked for it, if one did."""

    host: str
    since: str
    by: Annotated[str, Field(description="`start`, `sighup` or `reload`.")]
    actor: NotRequired[str]


class VersionView(TypedDict):
    """A version: when, how, where and by whom it first came into force, and where it is now."""

    version: str
    firstAt: str
    by: Annotated[str, Field(description="`start`, `sighup` or `reload`.")]
    host: str
    actor: NotRequired[str]
    hosts: list[HostView]
    workers: NotRequired[
        Annotated[int, Field(description="How many workers of the answering host charge by it.")]
    ]


class ExplainedLineView(TypedDict):
    """A line of a cost. Amounts are nano-dollars: whole numbers, or exact decimals in text."""

    unit: str
    quantity: int | float
    model: str
    price: Annotated[str | None, Field(description="Of one. Null: not known, or not the same for all.")]
    exact: Annotated[str | None, Field(description="Quantity times price, before anything is rounded.")]
    nanoUsd: Annotated[int | None, Field(description="What it comes to; null: not known.")]
    bookedNanoUsd: Annotated[int | None, Field(description="What the record says; null: nothing.")]
    hasPrice: Annotated[bool, Field(description="False: none of its own, so free, or at that of text.")]


class ExplanationView(TypedDict):
    """Why a record cost what it did, worked out anew by the table of its own version."""

    priceVersion: str | None
    agrees: Annotated[bool, Field(description="Whether that comes to what was booked.")]
    bookedNanoUsd: int
    workedOutNanoUsd: Annotated[int | None, Field(description="Null: it cannot be worked out.")]
    exact: Annotated[str | None, Field(description="The sum before its one rounding, half up.")]
    aboveInputTokens: Annotated[int | None, Field(description="The context tier; null: the usual one.")]
    tiers: Annotated[list[str], Field(description="Answered in: `service_tier:batch`, `speed:fast`, …")]
    priceFactor: str | None
    lines: list[ExplainedLineView]
    notes: list[str]


class ComparedView(TypedDict):
    """What was charged, and what it would have been, in nano-dollars."""

    requests: int
    oldNanoUsd: int
    newNanoUsd: int
    differenceNanoUsd: int


class ComparedRow(ComparedView):
    """The same of one user or model; null: of requests without one."""

    name: str | None


# `from` is a keyword.
PartView = TypedDict(
    "PartView",
    {
        "from": str,
        "to": str,
        "source": Annotated[str, Field(description="`records` or `sums`.")],
        "exactness": Annotated[str, Field(description="How far to trust it.")],
        "requests": int,
        "oldNanoUsd": int,
        "newNanoUsd": int,
        "differenceNanoUsd": int,
    },
)


class PreviewView(TypedDict):
    """What another table would have charged. Rows that differ most come first; the rest is `other…`."""

    parts: list[PartView]
    total: ComparedView
    models: list[ComparedRow]
    otherModels: ComparedView
    users: list[ComparedRow]
    otherUsers: ComparedView
    missingModels: Annotated[
        list[str], Field(description="Charged then, and not in the other table: 0 in `newNanoUsd`.")
    ]


def version_view(found: Mapping[str, Any], workers: Mapping[str, int] | None = None) -> VersionView:
    """Show a version; `workers` counts those of this host by version."""
    version = str(found["_id"])
    view = VersionView(
        version=version,
        firstAt=json_ready(found.get("firstAt")),
        by=str(found.get("by")),
        host=str(found.get("host")),
        hosts=[_host(entry) for entry in found.get("hosts") or ()],
    )
    if found.get("actor"):
        view["actor"] = str(found["actor"])
    if workers is not None:
        view["workers"] = workers.get(version, 0)
    return view


def _host(entry: Mapping[str, Any]) -> HostView:
    view = HostView(host=str(entry["host"]), since=json_ready(entry["since"]), by=str(entry["by"]))
    if entry.get("actor"):
        view["actor"] = str(entry["actor"])
    return view


def explanation_view(found: Explanation) -> ExplanationView:
    """Show an explanation."""
    factor = found.terms.factor
    return ExplanationView(
        priceVersion=found.version,
        agrees=found.agrees,
        bookedNanoUsd=found.booked_nano,
        workedOutNanoUsd=found.worked_out_nano,
        exact=_exact(found.exact),
        aboveInputTokens=found.above or None,
        tiers=list(found.terms.tiers),
        priceFactor=_exact(factor),
        lines=[_line(line) for line in found.lines],
        notes=list(found.notes),
    )


def _line(line: ExplainedLine) -> ExplainedLineView:
    quantity = line.quantity if isinstance(line.quantity, int) else float(line.quantity)
    product = None if line.rate is None else line.rate * Fraction(line.quantity)
    return ExplainedLineView(
        unit=line.unit,
        quantity=quantity,
        model=line.model,
        price=_exact(line.rate),
        exact=_exact(product),
        nanoUsd=line.nano_usd,
        bookedNanoUsd=line.booked_nano,
        hasPrice=line.is_priced,
    )


def preview_view(found: Preview, most: int = MOST_ROWS) -> PreviewView:
    """Show a comparison, with at most so many rows of each kind."""
    models, other_models = _rows(found.models, most)
    users, other_users = _rows(found.users, most)
    return PreviewView(
        parts=[_part(part) for part in found.parts],
        total=_compared(found.whole),
        models=models,
        otherModels=other_models,
        users=users,
        otherUsers=other_users,
        missingModels=sorted(found.missing)[:most],
    )


def _rows(rows: Mapping[str, Compared], most: int) -> tuple[list[ComparedRow], ComparedView]:
    ordered = sorted(rows.items(), key=lambda row: (-abs(row[1].difference_nano), -row[1].old_nano, row[0]))
    rest = Compared()
    for _, compared in ordered[most:]:
        rest.add(compared)
    shown = [ComparedRow(name=name or None, **_compared(compared)) for name, compared in ordered[:most]]
    return shown, _compared(rest)


def _part(part: Part) -> PartView:
    exactness = _FROM_SUMS if part.source == SUMS else _EXACT
    if part.source != SUMS and part.booked_nano != part.whole.old_nano:
        exactness = f"{exactness} {_LACKS} ({part.booked_nano} nano-dollars)"
    return {
        "from": iso_utc(part.start),
        "to": iso_utc(part.end),
        "source": part.source,
        "exactness": exactness,
        **_compared(part.whole),
    }


def _compared(compared: Compared) -> ComparedView:
    return ComparedView(
        requests=compared.requests,
        oldNanoUsd=compared.old_nano,
        newNanoUsd=compared.new_nano,
        differenceNanoUsd=compared.difference_nano,
    )


def _exact(value: Fraction | None) -> str | None:
    """Write an exact amount: prices and factors are decimals, so their products are."""
    if value is None:
        return None
    with localcontext(prec=_DIGITS):
        return f"{(Decimal(value.numerator) / value.denominator).normalize():f}"
