"""The prices: of the models now, their versions, what another table would have charged, what is missing."""

from datetime import datetime, timedelta, tzinfo

from flask import Blueprint, render_template, request
from flask_wtf import FlaskForm
from wtforms import FileField, StringField
from wtforms.validators import InputRequired, Length

from app.admin.asking import ask, asked_question
from app.common.cursor import FilterError
from app.exchange.ports import Clock
from app.management.errors import Unusable
from app.management.price_history import PREVIEW_END_S, PREVIEW_S, PriceHistory
from app.management.reading import StatsStore
from app.management.views.models import missing_models_view
from app.management.views.price_history import PreviewView, preview_view, version_view
from app.management.views.prices import prices_view
from app.pricing.model_file import MAX_TEXT
from app.records.log_filter import parse_moment
from app.statistics.periods import Period, UnknownPeriodError

DEFAULT_PERIOD = "30d"

_MOST_ROWS = 50
_MOST_MISSING = 50
_LONGEST = timedelta(days=3700)


class PreviewForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """A table to compare with what was charged."""

    table = FileField(
        "Model table", render_kw={"accept": ".toml"}, description="A models.toml; nothing is changed by it"
    )
    since = StringField(
        "Since",
        [InputRequired("is required"), Length(max=40)],
        default="30d",
        description="A date, a time, or how long ago: 7d",
    )


def price_pages(prices: PriceHistory, stats: StatsStore, clock: Clock, tz: tzinfo) -> Blueprint:
    """Make the page `/billing/prices`; times without a zone are in `tz`."""
    routes = Blueprint("prices", __name__)

    def page(form: PreviewForm, compared: PreviewView | None = None) -> str:
        now, problem = clock.utcnow(), None
        try:
            period = asked_question().period(now, tz, DEFAULT_PERIOD)
        except (FilterError, UnknownPeriodError) as error:
            problem, period = error, Period.of(DEFAULT_PERIOD, now, tz)
        table = prices.in_force()
        search = request.args.get("search", "").strip()[:100]
        missing = ask(lambda: stats.missing_models(period, _MOST_MISSING))
        return render_template(
            "prices.html",
            table=prices_view(table, search, now),
            search=search,
            versions=[version_view(version) for version in ask(prices.versions) or ()],
            missing=None if missing is None else missing_models_view(*missing, table, period.name),
            default_period=DEFAULT_PERIOD,
            problem=problem,
            form=form,
            compared=compared,
        )

    @routes.get("/billing/prices")
    def versions() -> str:
        return page(PreviewForm())

    @routes.post("/billing/prices")
    def preview() -> str:
        form = PreviewForm()
        if not form.validate():
            return page(form)
        now = clock.utcnow()
        since = _since(form, now, tz)
        text = _table_of(form)
        if since is None or text is None:
            return page(form)
        began = clock.monotonic()
        try:
            found = prices.preview(
                text,
                since,
                now,
                is_late=lambda: clock.monotonic() > began + PREVIEW_S,
                is_over=lambda: clock.monotonic() > began + PREVIEW_END_S,
            )
        except Unusable as error:
            form.table.errors = [f"{error}"]
            return page(form)
        return page(form, preview_view(found, _MOST_ROWS))

    return routes


def _since(form: PreviewForm, now: datetime, tz: tzinfo) -> datetime | None:
    """Return since when; None, with the reason at the field, if it cannot be used."""
    try:
        since = parse_moment("since", form.since.data.strip(), now, tz)
    except FilterError as error:
        form.since.errors = [str(error).removeprefix("since: ")]
        return None
    if now - _LONGEST <= since < now:
        return since
    form.since.errors = ["takes a time of the last ten years"]
    return None


def _table_of(form: PreviewForm) -> str | None:
    """Return the text of the table; None, with the reason at the field, if it cannot be used."""
    upload = request.files.get(form.table.name)
    raw = b"" if upload is None else upload.read(4 * MAX_TEXT)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        form.table.errors = ["is not UTF-8 text"]
        return None
    if not text.strip() or len(text) > MAX_TEXT:
        form.table.errors = [f"takes a file of at most {MAX_TEXT:,} characters" if text else "is required"]
        return None
    return text
