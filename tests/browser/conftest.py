"""One browser and one proxy with real traffic, for all tests that look at the dashboard."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.chromium import EXECUTABLE, Watched, chromium
from tests.support.site import Site
from tests.support.upstream_process import UpstreamProcess


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, or a skip that says so."""
    if EXECUTABLE is None:
        pytest.skip("this machine has no Chromium: apt-get install chromium")
    with chromium() as running:
        yield running


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Site]:
    """A proxy that has served."""
    with UpstreamProcess() as upstream:
        made = Site(tmp_path_factory.mktemp("site"), upstream)
        with made.weir:
            made.prepare()
            yield made


@pytest.fixture
def stranger(browser: Browser, site: Site) -> Iterator[Watched]:
    """A window of somebody who has not logged in. Whatever it complains about fails the test.

    Figures stand still by then: what tests before have sent is booked and summed.
    """
    site.settle()
    window = Watched(browser, site.weir.url)
    yield window
    window.close()
    assert window.complaints == []


@pytest.fixture(scope="package")
def cookies(browser: Browser, site: Site) -> list[dict[str, object]]:
    """The session of a logged-in administrator."""
    window = Watched(browser, site.weir.url)
    window.log_in(site.token)
    found = [dict(cookie) for cookie in window.context.cookies()]
    window.close()
    return found


@pytest.fixture
def admin(stranger: Watched, cookies: list[dict[str, object]]) -> Watched:
    """A window of a logged-in administrator."""
    stranger.context.add_cookies(cookies)  # type: ignore[arg-type]
    return stranger
