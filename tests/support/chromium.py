"""The system's Chromium as an administrator's browser, with its eyes open for what must not happen."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from simulator.launcher import PATIENCE_S

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""Where it is; None: this machine has none."""

WIDE = (1280, 900)
NARROW = (390, 844)

_PATIENCE_MS = PATIENCE_S * 1000
_SILENCE = "window.EventSource = class extends EventTarget { close() {} }"
_MARKS = ("Content Security Policy", "Content-Security-Policy", "Refused to")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser without a window."""
    assert EXECUTABLE is not None
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        # Containers seldom allow Chromium's own sandbox; what it opens here is ours.
        browser = playwright.chromium.launch(
            executable_path=EXECUTABLE, args=["--no-sandbox"], timeout=_PATIENCE_MS
        )
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A window in which every console message, dialog and failed request is written down."""

    def __init__(
        self,
        browser: Browser,
        base_url: str,
        *,
        size: tuple[int, int] = WIDE,
        scheme: str = "light",
        **options: Any,
    ) -> None:
        self.context: BrowserContext = browser.new_context(
            base_url=base_url,
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion="reduce",
            **options,
        )
        self.context.set_default_timeout(_PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.told: list[str] = []
        self.dialogs: list[str] = []
        self.foreign: list[str] = []
        self._base_url = base_url
        self.page.on("console", lambda message: self.told.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.told.append(f"error: {error}"))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", self._note)

    def log_in(self, token: str) -> None:
        """With the admin token, through the form."""
        self.page.goto("/admin/login")
        self.page.get_by_label("Client key or admin token").fill(token)
        self.page.get_by_role("button", name="Log in with the key").click()
        self.page.get_by_role("heading", name="Home", exact=True).wait_for()

    def stand_still(self) -> None:
        """Have pages opened from now on stay as they came: what is pointed at is not drawn anew meanwhile."""
        self.context.add_init_script(_SILENCE)

    def close(self) -> None:
        """Close the window."""
        self.context.close()

    @property
    def complaints(self) -> list[str]:
        """What should not have been: errors, dialogs, breaches of the policy, requests to elsewhere."""
        bad = [line for line in self.told if line.startswith("error") or any(mark in line for mark in _MARKS)]
        return bad + [f"dialog: {text}" for text in self.dialogs] + [f"went to {url}" for url in self.foreign]

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self._base_url, "data:")):
            self.foreign.append(request.url)
