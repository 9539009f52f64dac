"""From an empty installation to the first answered request, and a user who looks at it: in a browser."""

import json
import re

import pytest
import requests
from playwright.sync_api import expect

from tests.support.axe import problems
from tests.support.chromium import Watched
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, browser):
    """A proxy with two workers that nobody has ever used, and a window; complaints fail the test."""
    with UpstreamProcess() as upstream:
        directory = tmp_path_factory.mktemp("fresh") / "data"
        with WeirProcess(directory, upstream.url, WEB_CONCURRENCY="2") as weir:
            yield weir


def links(weir) -> list[str]:
    return re.findall(r"http://[^\s\"]+/admin/setup/[\w-]+", weir.log)


def test_from_an_empty_installation_to_the_first_request(fresh, browser):
    window = Watched(browser, fresh.url)
    page = window.page
    page.goto("/")
    expect(page).to_have_url(re.compile("/admin/login"))
    [link] = links(fresh)
    page.goto(link)
    assert problems(page) == []
    page.get_by_label("User name").fill("root")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Become the owner").click()
    expect(page).to_have_url(re.compile("/admin/$"))
    steps = page.locator("#first-steps li")
    for place, is_done in enumerate((True, True, False, False, False)):
        expect(steps.nth(place)).to_contain_text("done" if is_done else "to do")
    assert problems(page) == []
    page.goto("/admin/customers")
    page.locator("#new-user > summary").click()
    page.get_by_label("Name", exact=True).fill("ann")
    page.get_by_label("Credit in USD").fill("5")
    page.get_by_role("button", name="Create the user and a key").click()
    secret = page.locator("#secret code").inner_text()
    assert problems(page) == []
    shown = page.locator("#snippet-curl pre").inner_text()
    assert secret in shown
    assert fresh.url in shown
    key_page = page.url
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("This key was shown already")
    assert secret not in page.content()
    assert fresh.database["user_keys"].count_documents({}) == 1
    page.goto("/admin/customers/ann")
    page.go_back()
    assert secret not in page.content()
    assert key_page in page.url
    page.goto("/admin/")
    expect(steps.nth(3)).to_contain_text("done")
    expect(steps.nth(4)).to_contain_text("to do")

    model = re.search(r'"model": "([^"]+)"', shown)[1]
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    answer = requests.post(
        f"{fresh.url}/v1/chat/completions", data=json.dumps(body), headers=headers, timeout=60
    )
    assert answer.status_code == 200
    fresh.wait_record(answer.headers["x-request-id"])
    expect(steps.nth(4)).to_contain_text("done")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Home")
    expect(steps).to_have_count(0)
    window.close()

    own = Watched(browser, fresh.url)
    own.page.goto("/")
    own.page.get_by_label("Client key or admin token").fill(secret)
    own.page.get_by_role("button", name="Log in with the key").click()
    expect(own.page).to_have_url(re.compile("/admin/me$"))
    assert problems(own.page) == []
    own.page.get_by_role("link", name="Requests").click()
    expect(own.page.locator("tbody tr")).to_have_count(1)
    own.page.get_by_role("link", name="Keys").click()
    expect(own.page.locator("tbody tr")).to_have_count(1)
    own.close()
    assert own.complaints == []


def test_the_link_is_good_once_and_not_written_again(fresh):
    [link] = links(fresh)
    assert requests.get(link, timeout=60).status_code == 404
    fresh.stop()
    fresh.start()
    assert len(links(fresh)) <= 1
    assert fresh.database["deployment"].find_one({"_id": "setup"})["usedAt"] is not None
