"""Turning mongod's log into one line for a person."""

import json
import signal
from pathlib import Path

_TAIL_BYTES = 64 * 1024
_SEVERE = {"F", "E"}
_MAX_DETAIL = 300

# What the log says → what to do about it; the first that matches.
_HINTS = (
    ("No space left on device", "the disk is full: free some space"),
    ("Disk quota exceeded", "the disk quota is used up: free some space"),
    ("Read-only file system", "the file system is read-only: use another DATA_DIR"),
    ("Writing to log file failed", "its log cannot be written: the disk may be full"),
    ("Too many open files", "too many open files: raise the limit (ulimit -n 64000)"),
    ("featureCompatibilityVersion", "another MongoDB version wrote the data: set MONGOD_BIN to that version"),
    ("DBPathInUse", "another mongod uses this directory: stop it"),
    ("Address already in use", "the socket is taken: stop the other mongod"),
    (
        "Permission denied",
        "file permissions: everything in the directory must belong to the user of this process",
    ),
    ("Operation not permitted", "file permissions: everything in the directory must belong to this user"),
    ("Cannot allocate memory", "not enough memory"),
    ("WT_PANIC", "data files are damaged: restore a backup, or try mongod --repair on a copy"),
    ("WT_TRY_SALVAGE", "data files are damaged: restore a backup, or try mongod --repair on a copy"),
)


def explain(log: Path, since: int, output: Path, exit_code: int | None) -> str:
    """Explain why mongod failed, in one line: what to do, and the words of its log.

    `since` is the size of the log, in bytes, when that mongod was started: older lines are not its own.
    """
    complaints = [words for line in _tail(log, since) + _tail(output, 0) if (words := _complaint(line))]
    for sign, advice in _HINTS:
        for complaint in complaints:
            if sign in complaint:
                return f"{advice} ({complaint[:_MAX_DETAIL]}; see {log})"
    detail = complaints[0][:_MAX_DETAIL] if complaints else _end_in_words(exit_code)
    return f"{detail}; see {log}"


def _tail(path: Path, since: int) -> list[str]:
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(since if since <= end else 0, end - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _complaint(line: str) -> str:
    """Return a line's words if it tells of a failure (a severe entry of the log, or plain text), else ""."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line.strip()
    if not isinstance(entry, dict) or entry.get("s") not in _SEVERE:
        return ""
    attributes = entry.get("attr")
    details = attributes.values() if isinstance(attributes, dict) else ()
    return " ".join(" ".join(_words(part) for part in (entry.get("msg"), *details)).split())


def _words(part: object) -> str:
    if isinstance(part, dict) and "msg" in part:  # WiredTiger's own messages come as an object
        return f"{part['msg']} {part.get('error_str', '')}"
    return str(part)


def _end_in_words(exit_code: int | None) -> str:
    if exit_code is None:
        return "it ended without a word"
    if exit_code < 0:
        return f"it was killed by {signal.Signals(-exit_code).name}"
    return f"it ended with exit code {exit_code}"
