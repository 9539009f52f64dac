"""Whatever a record holds, the pages show it as text."""

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from app.persistence.booking import Booking
from app.records.records import SequencedRecord

HOSTILE = [
    "<script>window.pwned=1</script>",
    "\"><img src=x onerror='window.pwned=1' data-xss>",
    "' onmouseover='window.pwned=1' data-xss='",
    "<svg onload=window.pwned=1 data-xss></svg>",
    "</title></style></pre></script><b data-xss>",
    "javascript:window.pwned=1",
    "{{7*7}}${7*7}<%= 7*7 %>{% raw %}",
    "<iframe srcdoc='<script>parent.pwned=1</script>' data-xss></iframe>",
    "<a href='javascript:window.pwned=1' data-xss>x</a><form action=//evil.test data-xss>",
    "&lt;script&gt;\u202e\u0000\u0007\ud7ff<base href=//evil.test/ data-xss>",
    "]]><!--<b data-xss>--!><b data-xss>",
]
TEXT_FIELDS = ("userId", "userKeyId", "factoryKeyId", "model", "requestedModel", "upstreamModel", "apiFormat",
               "endpoint", "errorType", "errorMessage", "toldMessage", "upstreamRequestId", "serviceTier",
               "usageSource", "outcome", "endUser", "sessionId", "clientName")  # fmt: skip
NUMBERS = ("inputTokens", "outputTokens", "cacheHitTokens", "latencyMs", "ttftMs", "statusCode", "bytesOut",
           "overheadMs", "upstreamStatusCode", "cacheWriteTokens", "costNanoUsd")  # fmt: skip


def hostile(number: int, text: str) -> dict:
    """A record with this text wherever one may be, numbers included."""
    return {
        "_id": f"{number:02}-{text}".replace("\0", ""),
        **dict.fromkeys(TEXT_FIELDS, text),
        **(dict.fromkeys(NUMBERS, text) if number % 2 else {}),
        "attempts": [{"factoryKeyId": text, "statusCode": text, "error": text, "latencyMs": text}, text],
        "usageRaw": {text.replace("\0", "").replace(".", ""): text, "nested": [text]},
        "usageFlags": [text],
        "tags": [text],
        "createdAt": datetime.now(UTC) - timedelta(seconds=number),
    }


@pytest.fixture(scope="module")
def records(site):
    logs = site.weir.database["request_logs"]
    made = [hostile(number, text) for number, text in enumerate(HOSTILE)]
    logs.insert_many(made)
    template = logs.find_one({"_id": site.ids[0]})
    booked = [
        {
            **template,
            "_id": f"booked-{n}",
            "model": text.replace("\0", ""),
            "userId": text.replace("\0", ""),
            # Of this hour: an earlier one may be summed up with them, and stay so when they are gone.
            "createdAt": datetime.now(UTC),
        }
        for n, text in enumerate(HOSTILE)
    ]
    settled = [SequencedRecord(n, document) for n, document in enumerate(booked, 1)]
    assert Booking(site.weir.database, "hostile").apply(settled).dead == ()
    yield made
    logs.delete_many({"_id": {"$in": [record["_id"] for record in made + booked]}})
    site.weir.database["request_rollups"].delete_many({"_id": {"$regex": "hostile"}})


def is_unharmed(window):
    return window.page.evaluate("[window.pwned, document.querySelectorAll('[data-xss]').length]") == [None, 0]


def test_the_log_shows_hostile_records_as_text(admin, records):
    page = admin.page
    page.goto("/admin/requests?limit=200")
    assert is_unharmed(admin)
    expect(page.locator("#log tbody")).to_contain_text("<script>window.pwned=1</script>")
    page.locator("#log tbody tr", has_text="onmouseover").first.hover()
    assert is_unharmed(admin)


def test_the_page_of_a_hostile_record_shows_it_as_text(admin, records):
    page = admin.page
    page.goto("/admin/requests?limit=200")
    links = [
        page.locator("#log .record-link").nth(number).get_attribute("href") for number in range(len(HOSTILE))
    ]
    for link in links:
        answer = page.goto(link)
        assert answer.status == 200, link
        page.get_by_text("The whole record").click()
        assert is_unharmed(admin), link
        hrefs = page.locator("a").evaluate_all("all => all.map(a => a.protocol + a.host)")
        assert set(hrefs) == {f"http:{page.url.split('/')[2]}"}


def test_home_shows_hostile_names_as_text(admin, records):
    page = admin.page
    page.goto("/admin/?period=24h")
    assert is_unharmed(admin)
    expect(page.locator("#users tbody")).to_contain_text("onerror")
    expect(page.locator("#models tbody")).to_contain_text("<svg onload")


@pytest.mark.parametrize("by", ["tag", "endUser", "session", "client"])
def test_usage_shows_hostile_names_as_text(admin, records, by):
    page = admin.page
    page.goto(f"/admin/usage?period=24h&metric=requests&by={by}")
    assert is_unharmed(admin)
    expect(page.locator("main table").last).to_contain_text("onerror")


@pytest.mark.parametrize(
    "place",
    [
        "/requests?q=",
        "/requests?status=",
        "/requests?from=",
        "/requests?cursor=",
        "/login?next=",
        "/?period=",
    ],
)
def test_what_is_asked_for_comes_back_as_text(admin, place):
    page = admin.page
    page.goto(f"/admin{place}" + quote("".join(HOSTILE[:3]).replace("\0", ""), safe=""))
    assert is_unharmed(admin)
    admin.told = [line for line in admin.told if "400" not in line and "404" not in line]


def test_the_policy_would_stop_a_script_that_got_through(admin):
    page = admin.page
    page.goto("/admin/")
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        page.evaluate(
            """() => {
                const script = document.createElement('script');
                script.textContent = 'window.pwned = 1';
                document.body.append(script);
                const image = document.createElement('div');
                image.innerHTML = '<img src=x onerror="window.pwned = 1"><p style="color: red">x</p>';
                document.body.append(image);
            }"""
        )
    page.locator("img").evaluate("image => image.decode().catch(() => null)")
    assert page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in line for line in admin.told)
    admin.told.clear()


def test_the_dashboard_is_not_shown_in_a_frame(admin, site):
    page = admin.page
    page.goto("/admin/static/icon.svg")
    page.goto(f"{site.weir.url}/health")
    # What is refused is loaded, too: as the browser's own page.
    page.evaluate(
        """() => new Promise((loaded) => {
            const frame = document.createElement("iframe");
            frame.src = "/admin/";
            frame.onload = () => loaded(null);
            document.body.replaceChildren(frame);
        })"""
    )
    assert ">Home</h1>" not in "".join(frame.content() for frame in page.frames if frame != page.main_frame)
    admin.told.clear()
