"""The processes that end-to-end tests share, and a lab over them for every test."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from app.store.embedded_mongo import EmbeddedMongo
from tests.support.lab import Lab
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have the upstream forget what a test that failed had planned: the next one would be given it."""
    report = yield
    shared = getattr(item, "funcargs", {}).get("upstream")
    if report.failed and shared is not None:
        shared.reset(keep_scripts=True)
    return report


@pytest.fixture(scope="package")
def upstream() -> Iterator[UpstreamProcess]:
    """The simulated upstream."""
    with UpstreamProcess() as process:
        yield process


@pytest.fixture(scope="package")
def weir(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    """The proxy in its usual configuration: one worker, one upstream key."""
    with WeirProcess(tmp_path_factory.mktemp("weir"), upstream.url) as process:
        yield process


# Few files use it, and one that has nothing to do still costs a few percent of a core.
@pytest.fixture(scope="module")
def hasty_weir(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    """A proxy that loses patience fast, with upstream keys to change to."""
    with WeirProcess(
        tmp_path_factory.mktemp("hasty"),
        upstream.url,
        OHMYGPT_API_KEYS="sk-upstream-first-0123,sk-upstream-second-0123,sk-upstream-third-0123",
        UPSTREAM_READ_TIMEOUT_S="3",  # on a busy machine, too, a test that leaves has to leave before
        ABORT_DRAIN_S="0.2",
    ) as process:
        yield process


@pytest.fixture
def lab(weir: WeirProcess, upstream: UpstreamProcess) -> Iterator[Lab]:
    """Requests through the shared proxy; afterwards the books are checked."""
    opened = Lab(weir, upstream)
    yield opened
    opened.check_books()


@pytest.fixture
def hasty_lab(hasty_weir: WeirProcess, upstream: UpstreamProcess) -> Iterator[Lab]:
    """Requests through the hasty proxy; afterwards the books are checked."""
    opened = Lab(hasty_weir, upstream)
    yield opened
    opened.check_books()


@pytest.fixture
def own_mongo(tmp_path: Path) -> Iterator[EmbeddedMongo]:
    """A MongoDB that outlives the proxy and that the test may stop and start: for it, somebody else's."""
    server = EmbeddedMongo(tmp_path / "mongo")
    server.start()
    yield server
    server.stop()
