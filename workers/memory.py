"""Memory that is free goes back to the system.

What a thousand streams have used and freed stays with the C library, scattered: some 10 MiB of a worker that
nobody else can use. Giving it back takes up to ten milliseconds, so it is done in a thread.
"""

import ctypes
from collections.abc import Callable

TRIM_S = 60.0
"""Seconds between two calls of what gives free memory back."""


def trimmer() -> Callable[[], object] | None:
    """Return what gives free memory back; None where the C library is not glibc, which alone has this."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(0)
