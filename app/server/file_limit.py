"""Open files: each connection is one, and most systems allow 1024 unless a process asks for more."""

import resource

MOST_FILES = 65_536
SPARE_FILES = 256
"""For everything but clients and their upstream connections: journal, database, logs."""


def allow_many_files() -> int:
    """Raise the soft limit of open files as far as the system lets a process; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
