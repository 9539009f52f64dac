"""Records say for whom and by what a request was made, whatever became of it."""

from dataclasses import replace

from exchange_world import ANSWER, CHUNK, DONE, USAGE, World, close, consume, json_reply, stream_reply

from app.records.records import NOT_ATTRIBUTED, Attribution
from app.wires.attribution import Attributor

HEADERS = {
    "authorization": "Bearer sk-ann",
    "user-agent": "curl/8.5.0",
    "x-session-id": "s1",
    "x-weir-tags": "a,b",
}
SAID = Attribution("bob", "s1", "curl/8.5.0", ("a", "b"))


def test_all_of_it_is_in_the_record_its_checkpoints_and_what_is_left_of_a_killed_request() -> None:
    world = World()
    consume(world.forward(stream_reply(CHUNK, USAGE, DONE), headers=HEADERS, user="bob", stream=True))
    assert world.record.attribution == SAID
    assert [record.attribution for record in world.sink.checkpointed] == [SAID] * len(world.sink.checkpointed)
    assert world.sink.checkpointed
    assert [request.attribution for request in world.sink.opened] == [SAID]
    document = world.record.to_document()
    assert [document[name] for name in ("endUser", "sessionId", "clientName", "tags")] == [
        *("bob", "s1", "curl/8.5.0"),
        ["a", "b"],
    ]


def test_a_refused_request_is_attributed_by_what_was_read_of_it() -> None:
    world = World()
    close(world.forward(headers=HEADERS, raw=b"no json"))
    assert world.record.attribution == SAID._replace(end_user=None)
    world = World()
    close(world.forward(headers=HEADERS, user="bob", model="unknown"))
    assert world.record.attribution == SAID


def test_a_client_that_says_nothing_has_no_such_fields() -> None:
    world = World()
    consume(world.forward(json_reply(ANSWER)))
    assert world.record.attribution == NOT_ATTRIBUTED
    assert world.record.to_document().keys().isdisjoint({"endUser", "sessionId", "clientName", "tags"})


def test_nothing_is_recorded_where_it_is_switched_off() -> None:
    world = World()
    world.gateway = replace(world.gateway, attributor=Attributor(is_on=False))
    consume(world.forward(json_reply(ANSWER), headers=HEADERS, user="bob"))
    assert world.record.attribution == NOT_ATTRIBUTED
