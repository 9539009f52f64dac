"""Server-sent events to windows that stay open: what they show is found out and encoded once for all.

One greenlet looks, and only while a window listens. Each window has a bounded queue; one that does not take
what it is sent is dropped, and connects again. A second greenlet watches whether the worker is to stop, so
that a store which does not answer holds up no stop: the windows are let go at once, and find another worker.

An event has a name and one line of JSON. `now` has figures, the same for all windows; `parts` has what has
changed of a topic; `over` says that the listener may not listen any more. The id of `parts` says what all
parts look like, so that a window which comes back with it soon is sent only what it lacks.
"""

import json
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

import gevent
from gevent.event import Event as Signal
from gevent.queue import Empty, Queue

from app.periodic import FailureLog

MOST_WINDOWS = 40
"""How many windows may listen to one worker."""
RETRY_MS = 2000
"""After how long a window that was let go connects again."""
HEARTBEAT_S = 15.0
LOOK_S = 1.0
"""How often the figures are looked at."""
DRAW_S = 2.0
"""How often a topic is drawn at most when something has happened; `IDLE_S`: when nothing seems to have."""
IDLE_S = 10.0

# A topic that takes long to draw is drawn less often: drawing takes one part in so many of the time.
_REST = 20
_MOST_REST_S = 60.0
_CHECK_S = 2.0
_STOP_S = 0.2
# In how many such looks a window has to have taken its end. A machine that stands still counts as one.
_GRACE_LOOKS = 5
_MOST_WAITING = 16
# Of a topic it is known how it looked when it was drawn the last so many times.
_MOST_KNOWN = 16
_SILENT_S = 3 * HEARTBEAT_S

logger = logging.getLogger("weir.live")


class Source(Protocol):
    """What windows are told of. Every method may ask the store and may raise."""

    def figures(self) -> Mapping[str, Any]:
        """Return what every window shows, as JSON can hold it."""

    def stamp(self) -> Hashable:
        """Return what changes when a topic may have: as of the last `figures`."""

    def draw(self, topic: Hashable) -> Mapping[str, str]:
        """Return the parts of a topic by their names."""

    def may_listen(self, listener: Any) -> bool:
        """Return whether somebody may go on listening."""


def event(name: str, data: Mapping[str, Any], event_id: str = "") -> bytes:
    """Encode an event."""
    identity = f"id: {event_id}\n" if event_id else ""
    # JSON has no bare line breaks, which would end a field.
    return f"event: {name}\n{identity}data: {json.dumps(data)}\n\n".encode()


def digest_of(parts: Mapping[str, str]) -> str:
    """Return the id of these parts."""
    text = json.dumps(sorted(parts.items())).encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=12).hexdigest()


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


class Window:
    """Somebody who listens to a topic: iterate over it to get what is to be sent.

    `abort` breaks off the connection of one who does not take it; `known` is the last id it has seen.
    """

    def __init__(self, topic: Hashable, listener: Any, abort: Callable[[], None], known: str = "") -> None:
        self.topic = topic
        self.listener = listener
        self.known = known
        self.is_new = True
        self.is_ended = False
        self.sent_at = 0.0
        self._abort = abort
        # One more: the end always has a place.
        self._waiting: Queue[bytes | None] = Queue(_MOST_WAITING + 1)

    def offer(self, piece: bytes, now: float) -> bool:
        """Queue a piece; False, and no more of them, when the window has not taken the last ones."""
        if self.is_ended or self._waiting.qsize() >= _MOST_WAITING:
            return False
        self._waiting.put_nowait(piece)
        self.sent_at = now
        return True

    def end(self, last: bytes = b"") -> None:
        """Let the window go, after what is queued and a last piece."""
        if self.is_ended:
            return
        self.is_ended = True
        for piece in (last, None):
            if piece is None or (piece and self._waiting.qsize() < _MOST_WAITING):
                self._waiting.put_nowait(piece)

    def drop(self) -> None:
        """Break the connection off."""
        self.is_ended = True
        self._abort()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                piece = self._waiting.get(timeout=_SILENT_S)
            except Empty:
                return
            if piece is None:
                return
            yield piece


@dataclass(slots=True)
class _Topic:
    """What a topic looked like when it was drawn last, and when it is due again."""

    parts: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    stamp: Hashable = None
    drawn_at: float = 0.0
    due_at: float = 0.0
    # By the id of what it looked like lately: each part's digest.
    known: dict[str, Mapping[str, bytes]] = field(default_factory=dict)

    def show(self, parts: Mapping[str, str]) -> Mapping[str, str]:
        """Take over how it looks now; return what has changed."""
        changed = {part: text for part, text in parts.items() if self.parts.get(part) != text}
        self.parts = parts
        if changed:
            self.digest = digest_of(parts)
            self.known.pop(self.digest, None)
            self.known[self.digest] = {part: _digest(text) for part, text in parts.items()}
            if len(self.known) > _MOST_KNOWN:
                del self.known[next(iter(self.known))]
        return changed

    def lacked_by(self, known: str) -> Mapping[str, str]:
        """Return the parts that whoever has seen this id has not seen as they are."""
        seen = self.known.get(known, {})
        return {part: text for part, text in self.parts.items() if seen.get(part) != _digest(text)}


class EventHub:
    """The windows of one worker. `is_stopping` says whether it is about to end."""

    def __init__(
        self,
        source: Source,
        is_stopping: Callable[[], bool],
        *,
        most: int = MOST_WINDOWS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._is_stopping = is_stopping
        self._most = most
        self._monotonic = monotonic
        self._windows: dict[int, Window] = {}
        self._topics: dict[Hashable, _Topic] = {}
        self._figures = b""
        self._woken = Signal()
        self._is_running = False
        self._watcher: gevent.Greenlet | None = None
        self._failures = FailureLog(logger, "open windows are not told", "open windows are told again")

    def __len__(self) -> int:
        return len(self._windows)

    def join(self, window: Window) -> bool:
        """Have a window told; False when there are too many, or the worker is about to end."""
        if len(self._windows) >= self._most or self._is_stopping():
            return False
        window.sent_at = self._monotonic()
        self._windows[id(window)] = window
        self._woken.set()
        if not self._is_running:
            self._is_running = True
            gevent.spawn(self._look_on)
        if self._watcher is None or self._watcher.dead:
            self._watcher = gevent.spawn(self._watch_stop)
        return True

    def leave(self, window: Window) -> None:
        """Forget a window whose connection has ended. Idempotent."""
        window.is_ended = True
        self._windows.pop(id(window), None)
        self._woken.set()

    def _watch_stop(self) -> None:
        # As long as there are windows, not as long as they are told: who tells them may hear of it first.
        while self._windows and not self._is_stopping():
            gevent.sleep(_STOP_S)
        for window in list(self._windows.values()):
            window.end()
        self._woken.set()
        for _ in range(_GRACE_LOOKS):
            if not self._windows:
                return
            gevent.sleep(_STOP_S)
        for window in list(self._windows.values()):
            window.drop()  # it does not take what was sent before

    def _look_on(self) -> None:
        checked_at = self._monotonic()
        try:
            while self._windows and not self._is_stopping():
                began = self._monotonic()
                self._woken.clear()
                try:
                    self._look(began)
                    if began - checked_at >= _CHECK_S:
                        checked_at = began
                        self._check()
                except Exception as error:  # noqa: BLE001  whatever it is, the next look may succeed
                    if not self._is_stopping():
                        self._failures.note_failure(error)
                else:
                    self._failures.note_success()
                self._keep_alive()
                self._woken.wait(LOOK_S)
        finally:
            self._is_running = False
            self._topics.clear()
            self._figures = b""

    def _look(self, now: float) -> None:
        figures = event("now", self._source.figures())
        stamp = self._source.stamp()
        for window in self._listening():
            if window.is_new or figures != self._figures:
                self._tell(window, figures)
        self._figures = figures
        by_topic: dict[Hashable, list[Window]] = {}
        problem: Exception | None = None
        for window in self._listening():
            by_topic.setdefault(window.topic, []).append(window)
        for gone in self._topics.keys() - by_topic.keys():
            del self._topics[gone]
        for name, windows in by_topic.items():
            topic = self._topics.setdefault(name, _Topic())
            has_new = any(window.is_new for window in windows) and now - topic.drawn_at >= LOOK_S
            has_new = has_new and bool(topic.drawn_at)
            has_happened = stamp != topic.stamp or now - topic.drawn_at >= IDLE_S
            is_due = now >= topic.due_at and (has_happened or not topic.drawn_at)
            if has_new or is_due:
                problem = self._draw(name, topic, stamp, windows) or problem
            for window in windows:
                if window.is_new and topic.drawn_at:
                    window.is_new = False
                    if lacked := topic.lacked_by(window.known):
                        self._tell(window, event("parts", {"parts": lacked}, topic.digest))
        if problem is not None:
            raise problem

    def _draw(
        self, name: Hashable, topic: _Topic, stamp: Hashable, windows: list[Window]
    ) -> Exception | None:
        """Draw a topic and send what has changed; return why it could not be drawn."""
        began = self._monotonic()
        topic.due_at = began + DRAW_S  # if it fails
        try:
            parts = self._source.draw(name)
        except Exception as error:  # noqa: BLE001  the other topics are drawn all the same
            return error
        topic.drawn_at = now = self._monotonic()
        topic.due_at = now + min(max(DRAW_S, _REST * (now - began)), _MOST_REST_S)
        topic.stamp = stamp
        if changed := topic.show(parts):
            told = event("parts", {"parts": changed}, topic.digest)
            for window in windows:
                if not window.is_new:
                    self._tell(window, told)
        return None

    def _check(self) -> None:
        """Let go who may not listen any more; those who came with one session are asked about once."""
        by_listener: dict[Hashable, list[Window]] = {}
        for window in self._listening():
            by_listener.setdefault(window.listener, []).append(window)
        for listener, windows in by_listener.items():
            if not self._source.may_listen(listener):
                for window in windows:
                    window.end(event("over", {}))

    def _keep_alive(self) -> None:
        now = self._monotonic()
        for window in self._listening():
            if now - window.sent_at >= HEARTBEAT_S:
                self._tell(window, b": alive\n\n")

    def _listening(self) -> list[Window]:
        return [window for window in self._windows.values() if not window.is_ended]

    def _tell(self, window: Window, piece: bytes) -> None:
        if not window.offer(piece, self._monotonic()) and not window.is_ended:
            logger.debug("a window does not take what it is sent: it is dropped")
            window.drop()
