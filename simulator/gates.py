"""Named gates: a script waits at one, a test sees that it does, and opens it."""

from __future__ import annotations

import threading
import time


class Gates:
    """Thread-safe. A gate stays open once opened, until `clear`."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._arrived: dict[str, int] = {}
        self._changed = threading.Condition()

    def arrive(self, name: str) -> None:
        """Note that a script reached the gate."""
        with self._changed:
            self._arrived[name] = self._arrived.get(name, 0) + 1
            self._changed.notify_all()

    def arrived(self, name: str) -> int:
        """Count the scripts that have reached the gate so far."""
        return self._arrived.get(name, 0)

    def is_open(self, name: str) -> bool:
        """Return whether scripts may pass."""
        return name in self._open

    def open(self, name: str) -> None:
        """Let everyone pass, now and later."""
        self._open.add(name)

    def wait_arrived(self, name: str, count: int = 1, timeout_s: float = 90.0) -> None:
        """Block until ``count`` scripts have reached the gate; `TimeoutError` if they do not in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._arrived.get(name, 0) < count:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"nothing reached gate {name!r} within {timeout_s} s")
                self._changed.wait(left)

    def clear(self) -> None:
        """Close all gates and forget which scripts arrived."""
        with self._changed:
            self._open.clear()
            self._arrived.clear()
