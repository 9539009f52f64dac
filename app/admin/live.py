"""Live pages: what is marked in a page is drawn anew for all windows that show it, and sent as events.

A page becomes live by `@live` on its view, and `{% filter live_part("ID") %}…{% endfilter %}` around what is
inside an element with that id and `data-live`. Such a page is drawn once for all windows that show the same
address under the same role (`app.server.event_hub`), outside of any window's request, as nobody in particular
of that role: so a part has nothing that belongs to one window or user, in particular no form, whose token is
its session's. Elements with `data-now` show figures that all pages share.

`GET /live?page=…` is a stream of events, or, for who cannot have one, the same once, as JSON.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from flask import Blueprint, Flask, Response, abort, current_app, g, jsonify, request, session, url_for
from flask_login import current_user, login_user
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect, Rule

from app.accounts.roles import Permission
from app.admin.access import Visitor
from app.management.permissions import needed
from app.management.reading import Traffic
from app.server.event_hub import MOST_WINDOWS, RETRY_MS, EventHub, Window, digest_of

View = TypeVar("View", bound=Callable[..., Any])

STREAM = "text/event-stream"

_MOST_PAGE = 2000
_MOST_ID = 64
_RETRY_S = 30
_BASE_URL = "http://weir/admin"
# Over which time the rate is taken.
_RATE_S = 10.0


def live(view: View) -> View:
    """Have the page of a view drawn anew while it is looked at."""
    view.is_live = True  # type: ignore[attr-defined]
    return view


def live_part(text: str, name: str) -> str:
    """Keep what is inside a live element while its page is drawn for windows (a filter of templates)."""
    kept: dict[str, str] | None = g.get("live_parts")
    if kept is not None:
        kept[name] = str(text)
    return text


def stream_of_page() -> str | None:
    """Return where the live parts of the page that is drawn come from; None for a page that is not live."""
    view = current_app.view_functions.get(request.endpoint or "")
    if not getattr(view, "is_live", False):
        return None
    path = f"{quote(request.path)}?{request.query_string.decode('latin-1')}".rstrip("?")
    return url_for("live.listen", page=path) if len(path) <= _MOST_PAGE else None


@dataclass(frozen=True, slots=True)
class Topic:
    """A page as it is drawn for all who have the role: `path` below `/admin`, with its query."""

    role: str
    path: str


@dataclass(frozen=True, slots=True)
class Listener:
    """Who listens: a session as its cookie has it, and the role it had when it began to."""

    session: tuple[tuple[str, Any], ...]
    role: str


class LiveSource:
    """`app.server.event_hub.Source` over the pages of the dashboard."""

    def __init__(
        self,
        app: Flask,
        traffic: Callable[[], Traffic],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._traffic = traffic
        self._monotonic = monotonic
        self._rates = Rates()
        self._last = Traffic()

    def figures(self) -> Mapping[str, Any]:
        """Return the figures of all workers: requests under way, and how many end in a second."""
        self._last = found = self._traffic()
        per_second = self._rates.add(self._monotonic(), found)
        return {
            "inFlight": f"{found.in_flight:,}",
            "perSecond": "–" if per_second is None else f"{per_second:,.1f}",
            "storeUp": found.is_store_up,
        }

    def stamp(self) -> Hashable:
        """Return what changes with every request and record."""
        found = self._last
        ids = tuple(str(opened.get("id")) for opened in found.requests)
        return found.written, found.in_flight, found.is_store_up, found.workers, ids

    def draw(self, topic: Hashable) -> Mapping[str, str]:
        """Return the live parts of a page by their ids; none of what the role may not see."""
        assert isinstance(topic, Topic)  # noqa: S101
        with self._app.test_request_context(topic.path, base_url=_BASE_URL):
            visitor = Visitor(None, topic.role)
            # No hook of the application runs before this view: what the page takes is looked at here.
            if request.url_rule is None or not _is_followed_by(visitor, request.url_rule):
                return {}
            login_user(visitor)
            kept: dict[str, str] = {}
            g.live_parts = kept
            self._app.view_functions[request.endpoint or ""](**(request.view_args or {}))
            return kept

    def may_listen(self, listener: Any) -> bool:
        """Return whether the session is still good for the role it had."""
        with self._app.test_request_context("/", base_url=_BASE_URL):
            session.update(dict(listener.session))
            return bool(current_user.is_authenticated) and current_user.role == listener.role


class Rates:
    """How many requests end in a second, over the last `_RATE_S` seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()
        self._total = 0.0
        self._last: Mapping[int, float] = {}

    def add(self, now: float, traffic: Traffic) -> float | None:
        """Take over the counts of now; return the rate, None as long as there is nothing to compare with."""
        self._total += traffic.ended_since(self._last)
        # A worker that did not tell this time may tell again.
        self._last = {**self._last, **traffic.ended}
        while self._seen and now - self._seen[0][0] > _RATE_S:
            self._seen.popleft()
        self._seen.append((now, self._total))
        since, before = self._seen[0]
        return None if now - since < 1.0 else (self._total - before) / (now - since)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFeed:
    """What pages follow: what goes on in all workers, and whether this one is about to end."""

    traffic: Callable[[], Traffic] = Traffic
    is_stopping: Callable[[], bool] = lambda: False


def add_live(app: Flask, feed: LiveFeed) -> None:
    """Make the pages of a dashboard live."""
    app.jinja_env.filters["live_part"] = live_part
    app.jinja_env.globals["traffic"] = feed.traffic
    app.context_processor(lambda: {"stream": stream_of_page()})
    app.register_blueprint(_live_pages(LiveSource(app, feed.traffic), feed.is_stopping))


def _live_pages(source: LiveSource, is_stopping: Callable[[], bool]) -> Blueprint:
    routes = Blueprint("live", __name__)
    hub = EventHub(source, is_stopping)

    @routes.get("/live")
    def listen() -> Response:
        page = request.args.get("page", "")
        if not _may_follow(page):
            abort(404)
        topic = Topic(str(current_user.role), page)
        if request.method == "HEAD":
            return Response(mimetype=STREAM)
        if request.accept_mimetypes.best != STREAM:
            parts = source.draw(topic)
            return jsonify(now=source.figures(), parts=parts, id=digest_of(parts))
        stream = request.environ.get("weir.stream")
        window = Window(
            topic,
            Listener(_kept_session(), topic.role),
            getattr(stream, "break_off", lambda: None),
            request.headers.get("Last-Event-ID", "")[:_MOST_ID],
        )
        if not hub.join(window):
            said = f"At most {MOST_WINDOWS} windows follow a worker at once. This one asks now and then.\n"
            return Response(said, 503, {"Retry-After": str(_RETRY_S)}, mimetype="text/plain")

        def told() -> Iterator[bytes]:
            yield f"retry: {RETRY_MS}\n\n".encode()
            yield from window

        # nginx would collect events before it passes them on.
        answer = Response(told(), mimetype=STREAM, headers={"X-Accel-Buffering": "no"})
        answer.call_on_close(lambda: hub.leave(window))
        return answer

    return routes


def _may_follow(page: str) -> bool:
    """Return whether this is the address, below `/admin`, of a live page that whoever asks may see."""
    if not page.startswith("/") or len(page) > _MOST_PAGE or not page.isprintable():
        return False
    try:
        path = unquote(page.partition("?")[0])
        rule, _ = current_app.url_map.bind("").match(path, method="GET", return_rule=True)
    except (HTTPException, RequestRedirect):
        return False
    return _is_followed_by(current_user, rule)


def _is_followed_by(visitor: Any, rule: Rule) -> bool:
    """Return whether a rule's page is live, and one that everybody of the visitor's role may see."""
    permission = needed("GET", request.script_root + rule.rule)
    is_live = getattr(current_app.view_functions[rule.endpoint], "is_live", False)
    return is_live and permission is not Permission.OWN and bool(visitor.may(permission))


def _kept_session() -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, value) for name, value in session.items() if isinstance(value, str | int)))
