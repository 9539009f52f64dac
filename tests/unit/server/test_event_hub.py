"""What windows are told: once for all, bounded, and no longer than they may listen."""

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import gevent
import pytest

from app.server import event_hub
from app.server.event_hub import EventHub, Window, digest_of, event

PATIENCE_S = 120.0


class Told:
    """A source whose answers are set by the test."""

    def __init__(self) -> None:
        self.count = 0
        self.parts: dict[Hashable, dict[str, str]] = {}
        self.draws: list[Hashable] = []
        self.looks = 0
        self.refused: set[Any] = set()
        self.checks: list[Any] = []
        self.problem: Exception | None = None

    def figures(self) -> Mapping[str, Any]:
        self.looks += 1
        return {"count": self.count}

    def stamp(self) -> Hashable:
        return self.count

    def draw(self, topic: Hashable) -> Mapping[str, str]:
        self.draws.append(topic)
        if self.problem is not None:
            raise self.problem
        return dict(self.parts.get(topic, {}))

    def may_listen(self, listener: Any) -> bool:
        self.checks.append(listener)
        return listener not in self.refused


class Reader:
    """A window's connection: takes what it is sent until it is blocked."""

    def __init__(self, hub: EventHub, topic: str = "a", listener: str = "ann", known: str = "") -> None:
        self.got: list[bytes] = []
        self.aborted = False
        self.is_over = False
        self.open = gevent.event.Event()
        self.open.set()
        self.window = Window(topic, listener, self._abort, known)
        self.has_joined = hub.join(self.window)
        if self.has_joined:
            self.greenlet = gevent.spawn(self._read, hub)

    def _abort(self) -> None:
        self.aborted = True
        self.greenlet.kill(block=False)

    def _read(self, hub: EventHub) -> None:
        try:
            for piece in self.window:
                self.open.wait()
                self.got.append(piece)
        finally:
            self.is_over = True
            hub.leave(self.window)

    def events(self, name: str) -> list[Any]:
        start = f"event: {name}\n".encode()
        return [
            json.loads(piece.split(b"data: ", 1)[1]) for piece in list(self.got) if piece.startswith(start)
        ]

    @property
    def parts(self) -> dict[str, str]:
        """What the window shows."""
        shown: dict[str, str] = {}
        for told in self.events("parts"):
            shown |= told["parts"]
        return shown


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_S", "DRAW_S", "_CHECK_S", "_STOP_S"):
        monkeypatch.setattr(event_hub, name, 0.01)
    monkeypatch.setattr(event_hub, "_REST", 0)


@pytest.fixture
def source() -> Told:
    return Told()


@pytest.fixture
def world(source: Told) -> Iterator[Callable[..., EventHub]]:
    stop = {"is": False}

    def make(**options: Any) -> EventHub:
        hub = EventHub(source, lambda: stop["is"], **options)
        hub.stop = lambda: stop.update({"is": True})  # type: ignore[attr-defined]
        return hub

    yield make
    stop["is"] = True


def until(condition: Callable[[], Any], what: str = "it") -> None:
    with gevent.Timeout(PATIENCE_S, TimeoutError(what)):
        while not condition():
            gevent.sleep(0.002)


def test_a_topic_is_drawn_once_for_all_windows_and_sent_as_it_changes(world, source) -> None:
    source.parts = {"a": {"x": "1", "y": "1"}, "b": {"z": "1"}}
    hub = world()
    readers = [Reader(hub) for _ in range(5)] + [Reader(hub, "b")]
    until(lambda: all(reader.parts for reader in readers))
    assert readers[0].parts == {"x": "1", "y": "1"}
    assert readers[5].parts == {"z": "1"}
    assert (source.draws.count("a"), source.draws.count("b")) == (1, 1)
    source.parts["a"]["x"] = "2"
    source.count = 1
    until(lambda: all(reader.parts["x"] == "2" for reader in readers[:5]))
    assert readers[0].events("parts")[-1] == {"parts": {"x": "2"}}
    assert readers[5].parts == {"z": "1"}
    assert readers[0].events("now")[-1] == {"count": 1}


def test_nobody_looks_when_nobody_listens(world, source) -> None:
    hub = world()
    assert source.looks == 0
    reader = Reader(hub)
    until(lambda: source.looks > 2)
    reader.greenlet.kill()
    until(lambda: not hub._is_running)
    looks = source.looks
    gevent.sleep(0.05)
    assert source.looks == looks
    again = Reader(hub)
    until(lambda: again.events("now"))


def test_unchanged_topics_are_left_alone_and_unchanged_figures_are_not_sent(world, source) -> None:
    reader = Reader(world())
    until(lambda: source.looks > 10)
    assert source.draws == ["a"]
    assert len(reader.events("now")) == 1


def test_who_comes_back_is_sent_only_what_it_lacks(world, source) -> None:
    source.parts = {"a": {"x": "1"}}
    hub = world()
    knows = Reader(hub, known=digest_of({"x": "1"}))
    lacks = Reader(hub, known=digest_of({"x": "0"}))
    until(lambda: lacks.parts and knows.events("now"))
    assert knows.parts == {}
    assert f"id: {digest_of({'x': '1'})}\n".encode() in b"".join(lacks.got)


def test_who_comes_back_after_a_change_is_sent_only_what_has_changed(world, source, monkeypatch) -> None:
    monkeypatch.setattr(event_hub, "_MOST_KNOWN", 2)
    source.parts = {"a": {"x": "1", "y": "1"}}
    known = digest_of(source.parts["a"])
    hub = world()
    first = Reader(hub)
    until(lambda: first.parts)

    def change(y: str) -> None:
        source.parts["a"]["y"], source.count = y, int(y)
        until(lambda: first.parts["y"] == y)

    change("2")
    back = Reader(hub, known=known)
    until(lambda: back.parts)
    assert back.parts == {"y": "2"}
    change("3")
    late = Reader(hub, known=known)
    until(lambda: late.parts)
    assert late.parts == {"x": "1", "y": "3"}


def test_there_are_only_so_many_windows(world) -> None:
    hub = world(most=2)
    first, second, third = Reader(hub), Reader(hub), Reader(hub)
    assert (first.has_joined, second.has_joined, third.has_joined) == (True, True, False)
    until(lambda: first.got)
    first.greenlet.kill()
    assert Reader(hub).has_joined


def test_who_takes_nothing_is_dropped_and_holds_up_nobody(world, source) -> None:
    hub = world()
    slow, quick = Reader(hub), Reader(hub)
    until(lambda: slow.got and quick.got)
    slow.open.clear()
    while not slow.aborted:
        source.count += 1
        until(lambda: quick.events("now")[-1] == {"count": source.count})
    until(lambda: slow.is_over)
    assert len(hub) == 1
    assert slow.window._waiting.qsize() <= event_hub._MOST_WAITING + 1


def test_a_session_that_ended_ends_its_windows_and_is_asked_about_once(world, source) -> None:
    hub = world()
    anns = [Reader(hub) for _ in range(3)]
    bob = Reader(hub, listener="bob")
    until(lambda: source.checks.count("bob") > 2)
    assert source.checks.count("ann") <= source.checks.count("bob") + 1
    source.refused = {"ann"}
    until(lambda: all(reader.is_over for reader in anns))
    assert all(reader.got[-1] == event("over", {}) for reader in anns)
    assert not bob.is_over


def test_a_stop_lets_everybody_go_also_who_takes_nothing(world, source) -> None:
    hub = world()
    slow, quick = Reader(hub), Reader(hub)
    until(lambda: slow.got and quick.got)
    slow.open.clear()
    source.count = 7
    until(lambda: quick.events("now")[-1] == {"count": 7})
    hub.stop()
    until(lambda: quick.is_over and slow.is_over)
    assert slow.aborted
    assert not quick.aborted
    assert not Reader(hub).has_joined


def test_a_stop_lets_everybody_go_also_if_who_looks_hears_of_it_first(world, source, monkeypatch) -> None:
    monkeypatch.setattr(event_hub, "_STOP_S", 0.1)
    hub = world()
    reader = Reader(hub)
    until(lambda: reader.got)
    gevent.sleep(0.01)
    hub.stop()
    until(lambda: not hub._is_running and reader.is_over)
    assert not reader.aborted


def test_a_stop_does_not_wait_for_a_store_that_hangs(world, source) -> None:
    hung = gevent.event.Event()
    source.draw = lambda topic: {"hung": str(hung.wait())}
    hub = world()
    reader = Reader(hub)
    until(lambda: source.looks)
    hub.stop()
    until(lambda: reader.is_over)
    hung.set()


def test_a_topic_that_fails_is_tried_again_and_harms_no_other(world, source, caplog) -> None:
    source.problem = ValueError("no")
    hub = world()
    reader = Reader(hub)
    until(lambda: len(source.draws) > 2)
    assert [record.getMessage() for record in caplog.records] == ["open windows are not told"]
    source.problem, source.parts = None, {"a": {"x": "1"}}
    until(lambda: reader.parts == {"x": "1"})


def test_silence_is_broken_now_and_then(world, monkeypatch) -> None:
    monkeypatch.setattr(event_hub, "HEARTBEAT_S", 0.02)
    reader = Reader(world())
    until(lambda: b": alive\n\n" in reader.got)


def test_what_takes_long_is_drawn_less_often(world, source, monkeypatch) -> None:
    monkeypatch.setattr(event_hub, "_REST", 20)
    now = {"at": 100.0}
    hub = EventHub(source, lambda: False, monotonic=lambda: now["at"])

    def draw(topic: Hashable) -> Mapping[str, str]:
        source.draws.append(topic)
        now["at"] += 1.0
        return {}

    source.draw = draw  # type: ignore[method-assign]
    reader = Reader(hub)
    until(lambda: source.draws == ["a"])
    for count in range(1, 20):
        source.count = count
        now["at"] += 1.0
        until(lambda count=count: reader.events("now")[-1] == {"count": count})  # type: ignore[misc]
    assert source.draws == ["a"]
    source.count, now["at"] = 20, now["at"] + 2.0
    until(lambda: len(source.draws) == 2)
    reader.greenlet.kill()
