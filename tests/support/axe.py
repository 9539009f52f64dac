"""What axe finds wrong with a page as it is shown now."""

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

# Of what is well it would otherwise describe every element, which takes longer than looking.
_OPTIONS = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]},
    "resultTypes": ["violations"],
}


def problems(page: Page) -> list[tuple[str, str]]:
    """Every violation: its rule, and the element it is about."""
    page.wait_for_load_state()  # half a page, or one without its styles, has faults of its own
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("async (options) => (await axe.run(options)).violations", _OPTIONS)
    return [(issue["id"], node["html"][:200]) for issue in found for node in issue["nodes"]]
