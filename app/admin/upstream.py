"""The OhMyGPT keys: the pool, its spares, and what happened to them."""

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response as AnyResponse
from wtforms import FileField, PasswordField, StringField, TextAreaField
from wtforms.validators import InputRequired, Length

from app.admin.acting import actor, attempt, is_filled, text_of
from app.admin.asking import ask
from app.common.clock import now_ms
from app.common.cursor import FilterError, PageCursor
from app.common.display import counted
from app.management.administration import Administration
from app.management.errors import ManagementError, Unusable
from app.management.upstream_keys import is_configured

EVENTS = 30
_PLACES = {"pool": "the pool", "spares": "the backup keys"}


class NewKeyForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """A key for the pool or its spares. The key itself is typed unseen."""

    key_id = StringField("Id", [InputRequired("is required"), Length(max=50)])
    secret = PasswordField(
        "Key", [InputRequired("is required"), Length(8, 512)], render_kw={"autocomplete": "off"}
    )


class ImportForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """Many keys: a file, or lines pasted."""

    file = FileField("File", render_kw={"accept": "text/plain,.txt"})
    lines = TextAreaField(
        "or lines", render_kw={"rows": 4, "autocomplete": "off", "spellcheck": "false"}, description="id|key"
    )


def upstream_pages(administration: Administration) -> Blueprint:
    """Make the page `/upstream`."""
    routes = Blueprint("upstream", __name__)
    pool, spares = administration.keys, administration.backup_keys

    def page(problems: list[tuple[int, str]] | None = None, status: int = 200) -> AnyResponse:
        events_of = request.args.get("of", "").strip()[:60] or None
        try:
            cursor = PageCursor.parse(request.args.get("events"))
            found = ask(lambda: pool.events(events_of, EVENTS, cursor))
        except FilterError:
            return redirect(url_for("upstream.upstream"))
        events, older = found or ([], None)
        shown = render_template(
            "upstream.html",
            keys=ask(pool.list),
            account=ask(pool.account),
            books=ask(lambda: administration.books.fees(administration.books.yesterday(now_ms()))),
            spares=ask(spares.list),
            events=events,
            older_events=older,
            events_of=events_of,
            problems=problems,
            is_configured=is_configured,
            new_forms={place: NewKeyForm(formdata=None, prefix=place) for place in _PLACES},
            import_forms={place: ImportForm(formdata=None, prefix=place) for place in _PLACES},
        )
        return make_response(shown, status)

    @routes.get("/upstream")
    def upstream() -> AnyResponse:
        return page()

    @routes.post("/upstream/<place>/add")
    def add(place: str) -> AnyResponse:
        form = NewKeyForm(prefix=place)

        def action() -> str:
            store = spares if place == "spares" else pool
            key = store.add(actor(), text_of(form.key_id) or "", text_of(form.secret) or "")
            return f"{key.key_id} ({key.masked}) is in {_PLACES[place]}; workers use it within seconds."

        if place in _PLACES and is_filled(form):
            attempt(action)
        return _back()

    @routes.post("/upstream/<place>/import")
    def import_keys(place: str) -> AnyResponse:
        form, problems = ImportForm(prefix=place), []

        def action() -> str:
            store = spares if place == "spares" else pool
            try:
                ids = store.import_lines(actor(), _lines(form))
            except Unusable as error:
                problems.extend(error.lines)
                raise
            return f"{counted(len(ids), 'keys are', one='key is')} in {_PLACES[place]}."

        if place in _PLACES and is_filled(form):
            attempt(action)
        return page(problems, 400) if problems else _back()

    _add_key_actions(routes, administration)
    return routes


def _back() -> AnyResponse:
    return redirect(url_for("upstream.upstream"), code=303)


def _add_key_actions(routes: Blueprint, administration: Administration) -> None:
    pool, spares = administration.keys, administration.backup_keys

    @routes.post("/upstream/pool/<key_id>/reset")
    def reset(key_id: str) -> AnyResponse:
        attempt(lambda: f"{key_id} is {pool.reset(actor(), key_id).status}, on all workers and hosts.")
        return _back()

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

    Raises `ManagementError` if there is nothing.
    """
    upload = request.files.get(form.file.name)
    raw = upload.read() if upload is not None and upload.filename else (form.lines.data or "").encode()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ManagementError("the file is not UTF-8 text") from None
    if not text.strip():
        raise ManagementError("choose a file, or paste lines of id|key")
    return text
