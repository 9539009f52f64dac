"""The pictures of docs/images show the pages as they are now.

Times, ids and latencies differ from run to run, and charts with the hour of the day. So pictures are compared
from afar: their first screen, in cells as large as a word, by how many of these are lighter or darker.
"""

from base64 import b64encode
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.screenshots import IMAGES, VARIANTS, draw

MOST = 0.25
"""The share of cells that may differ: 0.1 or so do where only the hour is another, 0.3 where the page is."""
SIZES = {name: size for name, size, _ in VARIANTS}
SHARE_OF_CELLS = """async ([one, other, width, height]) => {
  const cells = async (png) => {
    const image = new Image();
    image.src = `data:image/png;base64,${png}`;
    await image.decode();
    if (image.width !== width) return null;
    const [across, down] = [Math.round(width / 20), Math.round(height / 20)];
    const context = new OffscreenCanvas(across, down).getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, width, height, 0, 0, across, down);
    return context.getImageData(0, 0, across, down).data;
  };
  const [before, now] = [await cells(one), await cells(other)];
  if (!before || !now) return 1;
  let differing = 0;
  for (let at = 0; at < before.length; at += 4) {
    const apart = [0, 1, 2].map((colour) => Math.abs(before[at + colour] - now[at + colour]));
    if (Math.max(...apart) > 12) differing += 1;
  }
  return differing / (before.length / 4);
}"""


@pytest.fixture(scope="module")
def drawn(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pictures")
    assert draw(browser, directory) == []
    return directory


@pytest.mark.parametrize("variant", SIZES)
def test_pictures_show_the_pages_as_they_are(browser: Browser, drawn: Path, variant: str) -> None:
    names = {path.name for path in drawn.glob(f"*-{variant}.png")}
    assert names == {path.name for path in IMAGES.glob(f"*-{variant}.png")}
    page = browser.new_page()
    shares = {name: _share(page, IMAGES / name, drawn / name, variant) for name in sorted(names)}
    page.close()
    changed = {name: share for name, share in shares.items() if share > MOST}
    assert changed == {}, "look at these pages; if they are as they should be: make screenshots"


def test_another_page_is_told_from_it(browser: Browser) -> None:
    page = browser.new_page()
    assert _share(page, IMAGES / "usage-light.png", IMAGES / "home-light.png", "light") > MOST
    page.close()


def _share(page: Page, one: Path, other: Path, variant: str) -> float:
    pictures = [b64encode(path.read_bytes()).decode() for path in (one, other)]
    share: float = page.evaluate(SHARE_OF_CELLS, [*pictures, *SIZES[variant]])
    return share
