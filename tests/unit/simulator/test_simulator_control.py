"""Scripts, keys, gates, connections, the control endpoints and the process."""

import json
import socket
import threading
from typing import Any

import pytest

from simulator import (
    At,
    Close,
    Data,
    End,
    Head,
    Raw,
    Reset,
    Script,
    Simulator,
    Sleep,
    Stall,
    Tokens,
    Wait,
)
from simulator.script import script_from_json, script_to_json


def read_until(sock: socket.socket, part: bytes) -> bytes:
    data = b""
    while part not in data:
        more = sock.recv(65536)
        assert more, data
        data += more
    return data


def test_raw_script_is_exact(simulator: Simulator, client: Any) -> None:
    exact = b"HTTP/1.1 299 Odd\r\nX: 1\r\n\r\nbody"
    model = simulator.script("exact", Script.raw(exact, per_send=1))

    assert client.raw("/anything", {"model": model}) == exact
    entry = simulator.tally.wait_ended(1)[0]
    assert (entry.status, entry.end, entry.bytes_out) == (299, "finished", len(exact))


def test_script_announces_its_tokens(simulator: Simulator, client: Any) -> None:
    tokens = Tokens(fresh=123, output=4)
    model = simulator.script(
        "sse", Script.sse([b"data: 1\n\n", b"data: [DONE]\n\n"], tokens=tokens, end=False)
    )

    answer = client.stream(model)

    assert (answer.body, answer.ended) == (b"data: 1\n\ndata: [DONE]\n\n", False)
    entry = simulator.tally.wait_ended(1)[0]
    assert (entry.spent, entry.announced, entry.chunks, entry.end) == (tokens, tokens, 2, "cut")


def test_script_survives_json() -> None:
    script = Script(
        (
            Head(201, (("A", "b"),), "length", 3, "HTTP/1.0", "Made", flush=False),
            Data(b"\xff\x00", 1, 0.5, 2, Tokens(1, 2, 3, 4, 5, 0)),
            Raw(b"x"),
            Sleep(0.1),
            At(0.2),
            Wait("go"),
            End(),
            End(written=True),
            Stall(),
            Reset(),
            Close(),
        ),
        tokens=Tokens(1),
        cut=True,
        keep_alive=False,
    )

    assert script_from_json(json.loads(json.dumps(script_to_json(script)))) == script


@pytest.mark.parametrize(
    "steps",
    [[{"do": "jump"}], [{"do": "head", "framing": "odd"}], [{"do": "sleep"}], [{"do": "head", "odd": 1}]],
)
def test_bad_scripts_are_value_errors(steps: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"step|framing"):
        script_from_json({"steps": steps})


def test_gate_holds_a_stream_until_opened(simulator: Simulator, client: Any) -> None:
    body = {"model": "gpt-sim:chunks=3,gate=g,after=2", "stream": True, "messages": [1]}
    with client.open() as sock:
        sock.sendall(client.request("/v1/chat/completions", body))
        simulator.wait_gate("g")
        assert read_until(sock, b"data: ").count(b"[DONE]") == 0
        assert simulator.entries()[0].end == "open"
        simulator.open_gate("g")
        read_until(sock, b"0\r\n\r\n")
    assert simulator.tally.wait_ended(1)[0].end == "finished"


def test_client_that_leaves_at_a_gate_is_noticed(simulator: Simulator, client: Any) -> None:
    body = {"model": "gpt-sim:hold=g", "messages": [1]}
    with client.open() as sock:
        sock.sendall(client.request("/v1/chat/completions", body))
        simulator.wait_gate("g")
    entry = simulator.tally.wait_ended(1)[0]
    assert (entry.end, entry.status, entry.announced) == ("client_gone", 0, None)


def test_pacing_keeps_to_its_schedule(simulator: Simulator, client: Any) -> None:
    from time import monotonic

    start = monotonic()
    answer = client.chat("gpt-sim:chunks=20,ttft_ms=20,delay_ms=5", stream=True)
    elapsed = monotonic() - start

    assert answer.body.endswith(b"[DONE]\n\n")
    assert elapsed >= 0.020 + 22 * 0.005


def test_keep_alive_pipelining_and_chunked_requests(simulator: Simulator, client: Any) -> None:
    data = json.dumps({"model": "gpt-5.6", "messages": [1]}).encode()
    chunked = b"".join(b"%x\r\n%b\r\n" % (1, data[i : i + 1]) for i in range(len(data))) + b"0\r\n\r\n"
    first = client.request("/v1/chat/completions", data)
    headers = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    second = client.request("/v1/chat/completions", None, headers=headers) + chunked
    last = client.request("/v1/models", None, method="GET", headers={"Connection": "close"})
    with client.open() as sock:
        sock.sendall(first + second + last)
        answer = b""
        while more := sock.recv(65536):
            answer += more
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    one, two, _ = simulator.tally.wait_ended(3)
    assert one.body_sha256 == two.body_sha256
    assert one.body_length == len(data)


def test_expect_continue(client: Any) -> None:
    data = json.dumps({"model": "gpt-5.6", "messages": [1]}).encode()
    request = client.request("/v1/chat/completions", data, headers={"Expect": "100-continue"})
    with client.open() as sock:
        sock.sendall(request[: -len(data)])
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(data)
        read_until(sock, b"HTTP/1.1 200 OK")


def test_garbage_is_answered_400(client: Any) -> None:
    with client.open() as sock:
        sock.sendall(b"nonsense\r\n\r\n")
        assert read_until(sock, b"}").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("state", "status", "part"),
    [
        ("bad", 401, b"Incorrect API key"),
        ("exhausted", 402, b'"statusCode":402'),
        ("limited:7", 429, b"Retry-After: 7"),
        ("banned", 403, b"permission_error"),
        ("status:418", 418, b"error"),
        ("play:fault=529", 529, b"overloaded_error"),
        ("ok", 200, b"message"),
    ],
)
def test_key_states(simulator: Simulator, client: Any, state: str, status: int, part: bytes) -> None:
    simulator.key("key-1", state)

    answer = client.message("claude-sonnet-5")

    assert answer.status == status
    assert part in answer.data
    entry = simulator.tally.wait_ended(1)[0]
    assert (entry.key, entry.model) == ("key-1", "claude-sonnet-5")


def test_flaky_key_fails_the_same_way_each_time(client: Any) -> None:
    runs = []
    for _ in range(2):
        client.simulator.key("key-1", "flaky:0.5")
        runs.append([client.chat("gpt-5.6").status for _ in range(12)])

    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}


def test_unknown_key_state_is_refused(simulator: Simulator) -> None:
    for state in ("sleepy", "flaky:2", "limited:x", "bad:1", "status:200", "play:odd=1"):
        with pytest.raises(ValueError, match=r"state|option"):
            simulator.key("k", state)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "bearer a"}, 200),
        ({"Authorization": "", "x-api-key": "a"}, 200),
        ({"Authorization": "Bearer a", "x-api-key": "a"}, 200),
        ({"Authorization": "Bearer a", "x-api-key": "b"}, 401),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Basic a"}, 401),
    ],
)
def test_credentials(client: Any, headers: dict[str, str], status: int) -> None:
    body = {"model": "m", "messages": [1]}

    assert client.post("/v1/chat/completions", body, headers=headers).status == status


def test_star_is_the_state_of_all_other_keys(client: Any) -> None:
    with Simulator(keys={"known": "ok", "*": "bad"}) as strict:
        client.simulator = strict
        assert client.chat("gpt-5.6").status == 401
        strict.key("*", "ok")
        assert client.chat("gpt-5.6").status == 200
        strict.reset()
        assert client.chat("gpt-5.6").status == 401
        body = {"model": "m", "messages": [1]}
        known = {"Authorization": "Bearer known"}
        assert client.post("/v1/chat/completions", body, headers=known).status == 200


def test_rules_are_used_up_in_order(simulator: Simulator, client: Any) -> None:
    simulator.behave("gpt-5.6", "")
    simulator.behave("gpt-5.6", "fault=503", times=2)
    simulator.behave("*", "fault=404")

    assert [client.chat("gpt-5.6").status for _ in range(4)] == [503, 503, 200, 200]
    assert client.chat("other").status == 404


def test_tally_and_last_requests_show_what_was_forwarded(simulator: Simulator, client: Any) -> None:
    headers = {"Anthropic-Version": "2023-06-01", "X-Odd": "1"}
    body = b'{"model": "m", "max_tokens": 1, "messages": [1]}'
    client.post("/p/v1/messages?beta=true", body, headers=headers)

    (entry,) = simulator.tally.wait_ended(1)
    (seen,) = simulator.requests()
    assert (entry.path, entry.query, entry.anthropic_version) == ("/p/v1/messages", "beta=true", "2023-06-01")
    assert "X-Odd" in entry.header_names
    assert seen.body == body
    assert ("X-Odd", "1") in seen.headers


def test_totals_agree_with_the_entries(simulator: Simulator, client: Any) -> None:
    for _ in range(3):
        client.chat("gpt-sim:prompt=10,out=4")
    client.chat("gpt-sim:prompt=10,out=4", user="sim:fault=503")

    simulator.tally.wait_ended(4)
    total = simulator.tally.totals()["gpt-sim:prompt=10,out=4"]
    assert total["requests"] == 4
    assert total["by_status"] == {"200": 3, "503": 1}
    assert (total["spent"]["fresh"], total["announced"]["output"]) == (30, 12)


def test_large_bodies_and_compressed_bodies(simulator: Simulator, client: Any) -> None:
    import gzip

    body = json.dumps({"model": "gpt-5.6", "messages": [{"role": "user", "content": "x" * 200_000}]}).encode()
    coded = gzip.compress(body)

    assert client.post("/v1/chat/completions", body).status == 200
    assert client.post("/v1/chat/completions", coded, headers={"Content-Encoding": "gzip"}).status == 200
    entries = simulator.tally.wait_ended(2)
    assert [entry.body_length for entry in entries] == [len(body), len(coded)]
    assert len(simulator.requests()[0].body) == 65_536
    with Simulator(max_body=1000) as small:
        client.simulator = small
        assert client.post("/v1/messages", body).status == 413


def test_refused_connections(simulator: Simulator, client: Any) -> None:
    simulator.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        client.open()
    simulator.start_listening()

    assert client.chat("gpt-5.6").status == 200


def test_dropped_connections_are_counted_out(simulator: Simulator, client: Any) -> None:
    with client.open() as sock:
        sock.sendall(client.request("/v1/chat/completions", {"model": "x-sim:hold=g", "messages": [1]}))
        simulator.wait_gate("g")
        assert simulator.connections == 1
        simulator.drop_connections()
        assert sock.recv(1) == b""
    assert simulator.connections == 0


def running_simulators() -> int:
    return [thread.name for thread in threading.enumerate()].count("simulator")


def test_stop_is_clean_with_open_streams_and_start_works_again(simulator: Simulator, client: Any) -> None:
    port, threads = simulator.port, running_simulators()
    with client.open() as sock:
        sock.sendall(
            client.request("/v1/chat/completions", {"model": "x-sim:fault=stall_early", "messages": [1]})
        )
        simulator.tally.wait_begun(1)
        simulator.stop()
    simulator.stop()
    assert running_simulators() == threads - 1
    assert simulator.tally.wait_ended(1)[0].end == "client_gone"

    simulator.start()
    assert simulator.port == port
    assert client.chat("gpt-5.6").status == 200


def test_taken_port_is_an_error(simulator: Simulator) -> None:
    with pytest.raises(OSError, match="in use"):
        Simulator(port=simulator.port).start()


def test_injected_clock_dates_the_answers(client: Any) -> None:
    with Simulator(clock=lambda: 1234.5) as dated:
        client.simulator = dated
        assert client.chat("gpt-5.6").json["created"] == 1234
