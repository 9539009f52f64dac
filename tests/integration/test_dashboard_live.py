"""Live pages over a real database: who may follow what, and what is drawn for whom."""

import json
from datetime import timedelta

import pytest
from flask import Blueprint, render_template_string, request
from flask_login import current_user

from app.admin import Page
from app.admin.live import Listener, LiveSource, Rates, Topic, _kept_session, live
from app.management.reading import Traffic
from tests.support.dashboard import PASSWORD, DashboardWorld

EVENTS = {"Accept": "text/event-stream"}
TEMPLATE = (
    '<p id="one">{% filter live_part("one") %}{{ word }} &amp; {{ asked }}{% endfilter %}</p>'
    '<p id="two">{% filter live_part("two") %}always{% endfilter %}</p>{{ stream }}'
)


@pytest.fixture
def world(database):
    made = DashboardWorld(database)
    made.word = "<b>"
    routes = Blueprint("sample", __name__)

    @routes.get("/sample/<name>")
    @live
    def sample(name: str) -> str:
        return render_template_string(TEMPLATE, word=made.word, asked=f"{name} {request.args.get('q')}")

    @routes.get("/still")
    def still() -> str:
        return render_template_string("{{ stream }}")

    made.more_pages = [Page("Settings", "Sample", "sample.still", routes)]
    return made


def test_a_live_page_says_where_its_parts_come_from(world) -> None:
    admin = world.admin()
    assert "/admin/live?page=/sample/x%253F?q%3Da%2526b" in admin.get("/sample/x%3F?q=a%26b").text
    assert admin.get("/still").text == "None"


def test_the_parts_are_what_the_page_shows(world) -> None:
    told = world.admin().get("/live", query_string={"page": "/sample/x%3F?q=%3Ci%3E"}).json
    assert told["parts"] == {"one": "&lt;b&gt; &amp; x? &lt;i&gt;", "two": "always"}
    assert told["now"] == {"inFlight": "0", "perSecond": "–", "storeUp": True}
    assert len(told["id"]) == 24


@pytest.mark.parametrize(
    "page", ["", "/still", "/nothing", "//weir/sample/x", "/sample/x\n", "/logout", "x" * 9]
)
def test_what_is_not_live_is_not_followed(world, page) -> None:
    assert world.admin().get("/live", query_string={"page": page}).status_code == 404


def test_strangers_follow_nothing(world) -> None:
    stranger = world.browser()
    assert stranger.get("/live?page=/sample/x", headers=EVENTS).status_code == 303
    assert stranger.get("/live?page=/sample/x", headers={"X-Weir-Live": "1"}).status_code == 401


def test_nothing_is_drawn_of_a_page_that_the_role_may_not_see(world) -> None:
    source = LiveSource(world.app(), Traffic)
    assert set(source.draw(Topic("owner", "/sample/x"))) == {"one", "two"}
    for topic in (
        Topic("viewer", "/sample/x"),  # a rule that nobody has classified takes an owner
        Topic("user", "/sample/x"),
        Topic("owner", "/still"),
        Topic("owner", "/nothing"),
    ):
        assert source.draw(topic) == {}, topic


def test_a_page_is_drawn_for_a_role_as_nobody_in_particular(world) -> None:
    world.add_user("ann")
    routes = Blueprint("names", __name__)

    @routes.get("/name")
    @live
    def name() -> str:
        return render_template_string(
            "{% filter live_part('name') %}{{ current_user.username }}{% endfilter %}"
        )

    world.more_routes = [routes]
    ann = world.browser()
    ann.log_in(username="ann", password=PASSWORD)
    assert ann.get("/live?page=/name").json["parts"] == {"name": "None"}


def test_a_stream_begins_with_when_to_come_back_then_all_there_is(world) -> None:
    admin = world.admin()
    answer = admin.client.get(
        "/live?page=/sample/x", base_url="http://weir.test/admin", headers=EVENTS, buffered=False
    )
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["Cache-Control"] == "no-store"
    pieces = iter(answer.response)
    assert next(pieces) == b"retry: 2000\n\n"
    assert next(pieces).startswith(b"event: now\ndata: {")
    name, number, data = next(pieces).decode().strip().split("\n")
    assert name == "event: parts"
    assert number.startswith("id: ")
    assert json.loads(data.removeprefix("data: "))["parts"]["two"] == "always"
    answer.close()
    assert admin.client.head("/live?page=/sample/x", base_url="http://weir.test/admin").status_code == 200


def test_a_session_may_follow_until_it_ends(world) -> None:
    world.add_user("ann")
    app = world.app()
    source = LiveSource(app, Traffic)
    listeners = []

    def listen(browser) -> None:
        with app.test_request_context(
            "/", base_url="http://weir.test/admin", headers={"Cookie": f"weir_admin={browser.cookie()}"}
        ):
            listeners.append(Listener(_kept_session(), current_user.role))

    ann, token = world.browser(), world.admin()
    ann.log_in(username="ann", password=PASSWORD)
    for browser in (ann, token):
        listen(browser)
    assert [source.may_listen(listener) for listener in listeners] == [True, True]
    ann.post("/logout", token_from="/")
    assert [source.may_listen(listener) for listener in listeners] == [False, True]
    world.clock.forward(hours=13)
    assert [source.may_listen(listener) for listener in listeners] == [False, False]


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rates, at = Rates(), timedelta().total_seconds()
    assert rates.add(at, Traffic(ended={1: 100.0})) is None
    assert rates.add(at + 2, Traffic(ended={1: 104.0})) == 2
    assert rates.add(at + 4, Traffic(ended={2: 50.0})) == 1, "one does not tell, one has come"
    assert rates.add(at + 8, Traffic(ended={1: 105.0, 2: 53.0})) == 1
    assert rates.add(at + 30, Traffic(ended={1: 105.0, 2: 53.0})) is None, "too long ago"
