"""The OhMyGPT keys: what each spent and how it fared, backup keys, and what happened to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from flask_wtf import FlaskForm
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from app.admin.acting import actor, attempt, sent, text_of
from app.admin.asking import ask, asked_question
from app.admin.charts import METRICS, metric_chart
from app.admin.key_history import WIDTH, KeyHistory, history_of
from app.admin.upstream_forms import ImportForm, NewUpstreamKeyForm, UpstreamLimitsForm
from app.common.cursor import FilterError, PageCursor
from app.common.display import counted
from app.exchange.ports import Clock
from app.management.administration import Administration
from app.management.errors import Conflict, Missing, Unusable
from app.management.reading import StatsStore
from app.management.upstream_keys import Changes, StoredProviderKey, is_configured, stored_id
from app.statistics.figures import Totals, mean
from app.statistics.periods import Period, UnknownPeriodError
from app.statistics.usage import Grouping, UsagePage

DEFAULT_PERIOD = "7d"
EVENTS = 30
_PLACES = {"pool": "the pool", "spares": "the backup keys"}
_REFUSED = 400
_BY_KEY, BY_MODEL = Grouping(("factoryKey",)), Grouping(("model",))
MOST_ROWS = 1000
_TOP = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSources:
    """What the pages show beside the stored keys; `hosts` are the upstream's, in order of preference."""

    stats: StatsStore
    health: Callable[[], Mapping[str, Any]]
    hosts: Sequence[str]
    clock: Clock
    tz: tzinfo

    def period(self) -> tuple[Period, Exception | None]:
        """Return the period asked for, or the usual one and what is wrong with the question."""
        now = self.clock.utcnow()
        try:
            return asked_question(DEFAULT_PERIOD).period(now, self.tz, DEFAULT_PERIOD), None
        except (UnknownPeriodError, FilterError) as error:
            return Period.of(DEFAULT_PERIOD, now, self.tz), error


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key of the pool, or one that has left it (`key` None), and what it did; `share` is in per cent."""

    key_id: str
    key: StoredProviderKey | None
    totals: Totals
    share: float
    history: KeyHistory
    same_as: str | None = None
    """Another key of the pool with the same secret."""

    @property
    def is_paused(self) -> bool:
        """Whether an operator lets it have no requests."""
        return self.key is not None and 0 in (self.key.limits.rpm, self.key.limits.max_in_flight)

    @property
    def is_healthy(self) -> bool:
        """Whether it serves, as far as is known."""
        return self.key is not None and self.key.status == "healthy" and not self.is_paused

    @property
    def latency_ms(self) -> float | None:
        """The mean."""
        return mean(self.totals.latency_sum_ms, self.totals.latency_count)


def key_rows(
    keys: Sequence[StoredProviderKey],
    used: Mapping[str | None, Totals],
    whole: Totals,
    history: Callable[[str, StoredProviderKey | None], KeyHistory],
) -> list[KeyRow]:
    """Return the pool in its order, then what else has served, the most expensive first."""
    known = {key.key_id: key for key in keys}
    gone = sorted(
        (key_id for key_id in used if key_id is not None and key_id not in known),
        key=lambda key_id: (-used[key_id].cost_nano_usd, key_id),
    )
    first_with: dict[str, str] = {}
    rows = []
    for key_id in (*known, *gone):
        key, totals = known.get(key_id), used.get(key_id, Totals())
        secret = None if key is None else key.secret
        other = first_with.setdefault(secret, key_id) if secret else key_id
        share = 100 * totals.cost_nano_usd / whole.cost_nano_usd if whole.cost_nano_usd else 0.0
        same_as = other if other != key_id else None
        rows.append(KeyRow(key_id, key, totals, share, history(key_id, key), same_as))
    return rows


def shown_host(url: str) -> str:
    """Return an address without the login that may be in it."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


class _Pages:
    """Draws the pages."""

    def __init__(self, administration: Administration, sources: UpstreamSources) -> None:
        self._administration = administration
        self._sources = sources

    def keys(self, forms: Mapping[str, FlaskForm] | None = None, status: int = 200) -> AnyResponse:
        """All keys; `forms` are those that were sent and could not be used."""
        administration, stats = self._administration, self._sources.stats.for_one_answer()
        period, problem = self._sources.period()
        try:
            cursor = PageCursor.parse(request.args.get("events"))
            found = ask(lambda: administration.keys.events(None, EVENTS, cursor))
        except FilterError:
            return redirect(url_for("upstream.upstream"))
        events, older = found or ([], None)
        pool = ask(administration.keys.list)
        used = ask(lambda: stats.usage(_BY_KEY, period, limit=MOST_ROWS))
        series = ask(lambda: stats.series(period, by="factoryKey", rank_by="cost", top=_TOP))
        strip = self._strip(period)
        changes = ask(lambda: administration.keys.changes_since(strip[0], period.now))
        blank = {
            **{f"{place}-add": NewUpstreamKeyForm(formdata=None, prefix=place) for place in _PLACES},
            **{f"{place}-import": ImportForm(formdata=None, prefix=place) for place in _PLACES},
        }
        health = self._sources.health()
        page = render_template(
            "upstream.html",
            default_period=DEFAULT_PERIOD,
            problem=problem,
            rows=None if pool is None else key_rows(pool, *_sums(used), _historian(changes, strip)),
            served=None if used is None else _served(used),
            strip=strip,
            strip_width=WIDTH,
            chart=None if series is None else metric_chart(METRICS["cost"], series, period, period.tz),
            account=ask(administration.keys.account),
            books=ask(lambda: administration.books.fees(administration.books.yesterday(period.now))),
            names={} if pool is None else {stored_id(key): key.key_id for key in pool},
            spares=ask(administration.backup_keys.list),
            hosts=list(map(shown_host, self._sources.hosts)),
            hosts_used=health.get("upstreamHosts") or (),
            events=events,
            older_events=older,
            places=_PLACES,
            forms={**blank, **(forms or {})},
        )
        return make_response(page, status if problem is None else _REFUSED)

    def key(self, key_id: str, form: UpstreamLimitsForm | None = None) -> AnyResponse:
        """One key; `form` was sent and could not be used."""
        administration, stats = self._administration, self._sources.stats.for_one_answer()
        period, problem = self._sources.period()
        pool = ask(administration.keys.list)
        of_key = {"factoryKeyId": key_id}
        used = ask(lambda: stats.usage_of(_BY_KEY, period, [(key_id,)]))
        try:
            cursor = PageCursor.parse(request.args.get("events"))
            found = ask(lambda: administration.keys.events(key_id, EVENTS, cursor))
        except FilterError:
            return redirect(url_for("upstream.one_key", key_id=key_id))
        events, older = found or ([], None)
        key = next((key for key in pool or () if key.key_id == key_id), None)
        if key is None and pool is not None and not used and not events:
            raise NotFound
        series = ask(lambda: stats.series(period, by="model", rank_by="cost", top=_TOP, selection=of_key))
        models = ask(lambda: stats.usage(BY_MODEL, period, limit=MOST_ROWS, selection=of_key))
        strip = self._strip(period)
        changes = ask(lambda: administration.keys.changes_since(strip[0], period.now))
        sums: dict[str | None, Totals] = {key_id: (used or {}).get((key_id,), Totals())}
        rows = key_rows(pool or (), sums, Totals(), _historian(changes, strip))
        page = render_template(
            "upstream_key.html",
            default_period=DEFAULT_PERIOD,
            problem=problem,
            row=next(row for row in rows if row.key_id == key_id),
            is_configured=is_configured(key_id),
            strip=strip,
            strip_width=WIDTH,
            chart=None if series is None else metric_chart(METRICS["cost"], series, period, period.tz),
            models=models,
            events=events,
            older_events=older,
            form=form or UpstreamLimitsForm.of(key),
        )
        return make_response(page, 200 if problem is None and form is None else _REFUSED)

    def _strip(self, period: Period) -> tuple[datetime, datetime]:
        """Return what time states are drawn for: the period, as far as changes are kept."""
        end = min(period.until, period.now)
        kept = period.now - timedelta(days=90)
        start = kept if period.start is None else max(period.start, kept)
        return (start, end) if start < end else (end - timedelta(hours=1), end)


def _sums(used: UsagePage | None) -> tuple[dict[str | None, Totals], Totals]:
    if used is None:
        return {}, Totals()
    return {key[0]: totals for key, totals in used.rows}, used.total


def _served(used: UsagePage) -> Totals:
    """Return everything that went upstream; what was refused has no key."""
    served = used.total.copy()
    for key, totals in used.rows:
        if key == (None,):
            served.subtract(totals)
    return served


def _historian(
    changes: Changes | None, strip: tuple[datetime, datetime]
) -> Callable[[str, StoredProviderKey | None], KeyHistory]:
    def history(key_id: str, key: StoredProviderKey | None) -> KeyHistory:
        if changes is None:
            return KeyHistory()
        known_from, made_at = changes.known_from, None if key is None else key.created_at
        if made_at is not None:
            known_from = max(known_from, made_at if made_at.tzinfo else made_at.replace(tzinfo=UTC))
        status = None if key is None else key.status
        return history_of(changes.of_keys.get(key_id, ()), status, *strip, known_from=known_from)

    return history


def upstream_pages(administration: Administration, sources: UpstreamSources) -> Blueprint:
    """Make the pages `/upstream` and `/upstream/keys/<id>`."""
    routes = Blueprint("upstream", __name__)
    pages = _Pages(administration, sources)
    pool, spares = administration.keys, administration.backup_keys

    @routes.get("/upstream")
    def upstream() -> AnyResponse:
        return pages.keys()

    @routes.get("/upstream/keys/<key_id>")
    def one_key(key_id: str) -> AnyResponse:
        return pages.key(key_id)

    @routes.post("/upstream/<place>/add")
    def add(place: str) -> AnyResponse:
        _require_place(place)
        form = NewUpstreamKeyForm(prefix=place)

        def action() -> str:
            store = spares if place == "spares" else pool
            try:
                key = store.add(actor(), text_of(form.key_id) or "", text_of(form.secret) or "")
            except Conflict as refusal:
                raise Unusable("key_id", str(refusal)) from None
            except Unusable as refusal:  # what could be wrong with the name the form has looked at
                raise Unusable("secret", str(refusal)) from None
            return f"{key.key_id} ({key.masked}) is in {_PLACES[place]}; workers use it within seconds."

        if not sent(form, action):
            return pages.keys({f"{place}-add": form}, _REFUSED)
        return _back()

    @routes.post("/upstream/<place>/import")
    def import_keys(place: str) -> AnyResponse:
        _require_place(place)
        form = ImportForm(prefix=place)

        def action() -> str:
            store, text = spares if place == "spares" else pool, _lines(form)
            try:
                ids = store.import_lines(actor(), text)
            except Unusable as refusal:
                form.lines.errors = [f"line {number}: {reason}" for number, reason in refusal.lines]
                raise Unusable("lines", str(refusal)) from None
            return f"{counted(len(ids), 'keys are', one='key is')} in {_PLACES[place]}."

        if not sent(form, action):
            return pages.keys({f"{place}-import": form}, _REFUSED)
        return _back()

    _add_key_actions(routes, administration, pages)
    return routes


def _require_place(place: str) -> None:
    if place not in _PLACES:
        raise NotFound


def _back() -> AnyResponse:
    return redirect(url_for("upstream.upstream"), code=303)


def _page_of(key_id: str) -> str:
    return url_for("upstream.one_key", key_id=key_id)


def _add_key_actions(routes: Blueprint, administration: Administration, pages: _Pages) -> None:
    pool, spares = administration.keys, administration.backup_keys

    @routes.post("/upstream/pool/<key_id>/limits")
    def limit(key_id: str) -> AnyResponse:
        form = UpstreamLimitsForm()

        def action() -> str:
            pool.limit(actor(), key_id, form.changes)
            return f"{key_id} is changed; workers follow within seconds."

        try:
            pool.get(key_id)
        except Missing:
            raise NotFound from None
        return redirect(_page_of(key_id), code=303) if sent(form, action) else pages.key(key_id, form)

    @routes.post("/upstream/pool/<key_id>/reset")
    def reset(key_id: str) -> AnyResponse:
        is_done = attempt(
            lambda: f"{key_id} is {pool.reset(actor(), key_id).status}, on all workers and hosts."
        )
        return redirect(_page_of(key_id), code=303) if is_done else _back()

    @routes.post("/upstream/pool/<key_id>/delete")
    def delete(key_id: str) -> AnyResponse:
        def action() -> str:
            pool.delete(actor(), key_id)
            return f"{key_id} is deleted; workers drop it within seconds."

        attempt(action)
        return _back()

    @routes.post("/upstream/spares/<key_id>/restore")
    def restore_spare(key_id: str) -> AnyResponse:
        attempt(lambda: f"{spares.restore(actor(), key_id).key_id} is available again.")
        return _back()

    @routes.post("/upstream/spares/<key_id>/delete")
    def delete_spare(key_id: str) -> AnyResponse:
        def action() -> str:
            spares.delete(actor(), key_id)
            return f"{key_id} is deleted."

        attempt(action)
        return _back()


def _lines(form: ImportForm) -> str:
    """Return what is to be imported, of the file or else the field.

    Raises `Unusable` if there is nothing.
    """
    upload = request.files.get(form.file.name)
    raw = upload.read() if upload is not None and upload.filename else (form.lines.data or "").encode()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Unusable("file", "the file is not UTF-8 text") from None
    if not text.strip():
        raise Unusable("lines", "choose a file, or paste lines of name|key")
    return text
