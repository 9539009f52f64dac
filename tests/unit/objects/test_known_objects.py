"""What a worker knows of what the upstream keeps."""

from datetime import UTC, datetime, timedelta
from threading import Event

import pytest
from msgspec.structs import replace

from app.common.errors import StoreUnavailable
from app.objects import known_objects
from app.objects.known_objects import KnownObjects
from app.objects.upstream_object import UpstreamObject

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def made(object_id: str = "resp_1", *parts: str, user: str = "ann", key: str = "k1") -> UpstreamObject:
    return UpstreamObject(object_id, key, user, "wk", "r1", "responses", "openai", NOW, parts=parts)


class Store:
    """Finds what others have written, and can be away."""

    def __init__(self) -> None:
        self.kept: dict[str, UpstreamObject] = {}
        self.asked: list[list[str]] = []
        self.is_away = False

    def add(self, objects: list[UpstreamObject], _now: datetime) -> None:
        if self.is_away:
            raise StoreUnavailable
        self.kept |= {item.object_id: item for item in objects}

    def find(self, ids: list[str]) -> list[UpstreamObject]:
        self.asked.append(list(ids))
        return [item for item in self.kept.values() if set(item.ids) & set(ids)]


def known(store: Store, pauses: list[float] | None = None) -> KnownObjects:
    return KnownObjects(store, now=lambda: NOW, pause=([] if pauses is None else pauses).append)  # type: ignore[arg-type]


def test_what_was_learnt_here_is_found_without_asking() -> None:
    store = Store()
    objects = known(store)
    objects.learn(made("resp_1", "msg_1"))
    assert {name: item.object_id for name, item in objects.find(["msg_1", "resp_1"], "ann").items()} == {
        "msg_1": "resp_1",
        "resp_1": "resp_1",
    }
    assert store.asked == []


def test_where_nobody_waits_the_store_is_asked_once() -> None:
    store, pauses = Store(), []
    objects = known(store, pauses)
    store.add([made("resp_1", "msg_1")], NOW)
    assert list(objects.find(["msg_1", "msg_2"], "ann", waits=False)) == ["msg_1"]
    assert (store.asked, pauses) == ([["msg_1", "msg_2"]], [])


def test_what_another_worker_is_about_to_write_is_waited_for() -> None:
    store, pauses = Store(), []
    objects = known(store, pauses)

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            store.kept["resp_1"] = made()

    objects._pause = pause
    assert objects.find(["resp_1"], "ann")["resp_1"].user_id == "ann"
    assert len(pauses) == 2
    assert objects.find(["resp_2"], "ann") == {}
    assert 0.5 < sum(pauses) < 2


def looks(objects: KnownObjects, store: Store, ids: list[str], user_id: str = "eve") -> int:
    """Ask for ids that do not exist; return how often the store was asked for them."""
    before = len(store.asked)
    assert objects.find(ids, user_id) == {}
    return len(store.asked) - before


def test_what_was_unknown_a_moment_ago_is_not_waited_for_again() -> None:
    store, pauses = Store(), []
    objects = known(store, pauses)
    assert looks(objects, store, ["resp_1"]) == 5
    waited = sum(pauses)
    assert [looks(objects, store, ["resp_1"]) for _ in range(100)] == [1] * 100
    assert sum(pauses) == waited
    assert looks(objects, store, ["resp_1", "resp_2"]) == 5
    store.kept["resp_1"] = made()  # its write was late
    assert objects.find(["resp_1"], "ann")["resp_1"].user_id == "ann"


def test_who_asks_for_unknown_ids_in_a_flood_waits_for_few_of_them() -> None:
    store, pauses = Store(), []
    objects = known(store, pauses)
    asked = [looks(objects, store, [f"resp_{number}"]) for number in range(1000)]
    assert asked == [5] * known_objects.MAX_VAIN + [1] * (1000 - known_objects.MAX_VAIN)
    assert looks(objects, store, ["resp_x"], "ann") == 5  # others wait as ever
    objects._now = lambda: NOW + timedelta(minutes=1)
    assert looks(objects, store, ["resp_y"]) == 5


def test_waiting_for_what_comes_is_not_in_vain() -> None:
    store = Store()
    objects = known(store)
    for number in range(100):
        objects._pause = lambda _s, name=f"resp_{number}": store.kept.update({name: made(name)})  # type: ignore[misc]
        assert objects.find([f"resp_{number}"], "ann")


def test_few_unknown_ids_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_objects, "MAX_UNKNOWN_IDS", 3)
    store = Store()
    objects = known(store)
    assert looks(objects, store, ["resp_1", "resp_2"]) == 5
    assert looks(objects, store, ["resp_3", "resp_4"]) == 5
    assert looks(objects, store, ["resp_3", "resp_4"]) == 5
    assert looks(objects, store, ["resp_1"]) == 1


def test_the_first_to_tell_an_id_says_whose_it_is_and_parts_are_added() -> None:
    objects = known(Store())
    objects.learn(made())
    objects.learn(made("resp_1", "msg_1", user="bob", key="k2"))
    found = objects.find(["msg_1"], "ann")["msg_1"]
    assert (found.user_id, found.key, found.parts) == ("ann", "k1", ("msg_1",))
    assert objects.unwritten == 2
    objects.learn(made("resp_1", "msg_1"))  # nothing new
    assert objects.unwritten == 2
    objects.learn(replace(made(), created_at=NOW + timedelta(days=2)))  # still in use
    assert objects.unwritten == 3


class News(Event):
    """News that come at once, and are the last."""

    def __init__(self, stop: Event) -> None:
        super().__init__()
        self.stop = stop

    def wait(self, timeout: float | None = None) -> bool:
        self.stop.set()
        return True


def test_what_the_store_does_not_take_is_written_later() -> None:
    store = Store()
    objects = known(store)
    store.is_away = True
    objects.learn(made())
    objects.flush()
    assert (objects.lost, objects.unwritten) == (1, 1)
    store.is_away = False
    stop = Event()
    objects._is_news = News(stop)
    objects.run(stop)
    assert store.kept.keys() == {"resp_1"}


def test_memory_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(known_objects, "MAX_KNOWN_IDS", 10)
    monkeypatch.setattr(known_objects, "MAX_UNWRITTEN", 10)
    objects = known(Store())
    for number in range(50):
        objects.learn(made(f"resp_{number}", f"msg_{number}"))
    assert (len(objects), objects.unwritten, objects.lost) == (10, 10, 40)
    assert objects.find(["msg_49"], "ann")
    objects.settled("resp_49")
    assert objects.find(["resp_49"], "ann")["resp_49"].is_settled
