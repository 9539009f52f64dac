"""What axe finds wrong with a page as it is shown now."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

_TAGS = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}}


def problems(page: Page) -> list[tuple[str, str]]:
    """Every violation: its rule, and the element it is about."""
    found = Axe().run(page, options=_TAGS).response["violations"]
    return [(issue["id"], node["html"][:200]) for issue in found for node in issue["nodes"]]
