"""Message batches: their bodies, their results in any cuts, the URL of these."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wires.batch_body import parse_batch, with_models
from app.wires.endpoints import MESSAGES
from app.wires.errors import Refusal
from app.wires.formats.batches import BatchResult, ResultLines, with_results_url
from app.wires.readings import BAD_JSON, LINE_TOO_LONG, Readings

PARAMS = {"model": "claude", "max_tokens": 5, "messages": []}


def batch(*items: object) -> bytes:
    return json.dumps({"requests": list(items)}).encode()


def item(name: object = "a", **params: object) -> dict[str, object]:
    return {"custom_id": name, "params": PARAMS | params}


def parse(data: bytes) -> list[tuple[str, str]]:
    return [(found.custom_id, found.body.model) for found in parse_batch(data, MESSAGES, lambda: None)]


def test_each_request_is_read_and_its_model_can_be_changed() -> None:
    data = batch(item("a"), item("b", model="other"), item("c"))
    found = list(parse_batch(data, MESSAGES, lambda: None))
    assert [(one.custom_id, one.body.model) for one in found] == [
        ("a", "claude"),
        ("b", "other"),
        ("c", "claude"),
    ]
    renamed = {one.start: (one.body, "up/claude") for one in found if one.body.model == "claude"}
    sent = with_models(data, renamed)
    assert [one["params"]["model"] for one in json.loads(sent)["requests"]] == [
        "up/claude",
        "other",
        "up/claude",
    ]
    assert sent.replace(b"up/claude", b"claude") == data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[]", "JSON object"),
        (b"{}", "requests"),
        (batch(), "requests"),
        (b'{"requests": 5}', "requests"),
        (b'{"requests": [1]}', "JSON object"),
        (batch({"custom_id": "a"}), "requests.0.params"),
        (batch({"params": PARAMS}), "requests.0.custom_id"),
        (batch(item("a") | {"more": 1}), "requests.0.more"),
        (b'{"requests": [], "requests": []}', "twice"),
        (batch(item("")), "requests.0.custom_id"),
        (batch(item("x" * 65)), "requests.0.custom_id"),
        (batch(item("a"), item("a")), "requests.1.custom_id"),
        (batch(item("a"), item("b", stream=True)), "requests.1.params.stream"),
        (batch(item("a"), item("b", messages="no")), "requests.1.params"),
        (b'{"requests": [{"custom_id": "a", "params": {"model": "a", "model": "b"}}]}', "requests.0.params"),
    ],
)
def test_what_is_no_batch_is_a_400_that_says_where(data: bytes, said: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse(data)
    assert refused.value.status == 400
    assert said in refused.value.message


def line(name: str, kind: str = "succeeded", **usage: int) -> bytes:
    message = {"model": "claude", "usage": usage, "content": [{"type": "text", "text": 'x\\n"succeeded"'}]}
    return json.dumps({"custom_id": name, "result": {"type": kind, "message": message}}).encode()


LINES = [line("a", input_tokens=1), line("b", "errored"), b"", line("c", output_tokens=2)]
WANTED = [BatchResult("a", "claude", {"input_tokens": 1}), BatchResult("c", "claude", {"output_tokens": 2})]


def test_requests_are_counted_before_there_is_an_object_of_each() -> None:
    rests: list[int] = []
    with pytest.raises(Refusal, match="at most 100,000 requests"):
        list(parse_batch(b'{"requests":[' + b"1," * 150_000 + b"1]}", MESSAGES, lambda: rests.append(1)))
    assert rests


@given(st.lists(st.integers(0, 400)), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_results_are_found_whatever_the_cuts(cuts: list[int], end: bytes, ends: bool) -> None:
    data = end.join(LINES) + (end if ends else b"")
    found: list[BatchResult] = []
    lines = ResultLines(Readings(), found.append)
    places = sorted({0, *(cut % len(data) for cut in cuts), len(data)})
    for start, stop in pairwise(places):
        lines.feed(data[start:stop])
    lines.flush()
    assert found == WANTED


def test_a_line_that_is_cut_or_too_long_is_flagged_and_not_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.wires.formats.batches.MAX_LINE", 500)
    readings, found = Readings(), []
    lines = ResultLines(readings, found.append)
    lines.feed(LINES[0] + b"\n" + b"x" * 600)
    lines.feed(b"x" * 600 + b"\n" + LINES[3] + b"\n" + LINES[0][:20])
    lines.flush()
    assert found == WANTED
    assert readings.flags == {LINE_TOO_LONG, BAD_JSON}


UPSTREAM = "https://up.example/v1/messages/batches/msgbatch_1/results"
OWN = "/v1/messages/batches/msgbatch_1/results"


@pytest.mark.parametrize(
    ("told", "host", "wanted"),
    [
        (UPSTREAM, "weir.test", f"https://weir.test{OWN}"),
        (UPSTREAM, "weir.test:8005", f"https://weir.test:8005{OWN}"),
        (UPSTREAM, "[::1]:8005", f"https://[::1]:8005{OWN}"),
        (UPSTREAM, 'evil"/x', OWN),
        (UPSTREAM, "a@b", OWN),
        (UPSTREAM, None, OWN),
        ("https://stranger.example/steal", "weir.test", ""),
        (None, "weir.test", None),
    ],
)
def test_the_url_of_the_results_is_the_proxys_and_nothing_else_changes(
    told: str | None, host: str | None, wanted: str | None
) -> None:
    def document(url: str | None) -> bytes:
        return json.dumps({"id": "msgbatch_1", "results_url": url, "note": "é"}, indent=1).encode()

    assert with_results_url(document(told), "https", host) == document(wanted)
    escaped = document(told).replace(b"/", b"\\/")
    assert json.loads(with_results_url(escaped, "https", host))["results_url"] == wanted
