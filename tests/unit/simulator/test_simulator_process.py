"""The simulator as a process, from the command line, and in a process patched by gevent."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simulator import Script, SimulatorProcess, Tokens

ROOT = Path(__file__).resolve().parents[3]


def test_process_offers_the_same_over_control_endpoints(client: Any) -> None:
    with SimulatorProcess() as process:
        client.simulator = process
        tokens = Tokens(fresh=5, output=1)
        model = process.script("s", Script.sse([b"data: [DONE]\n\n"], tokens=tokens))
        assert client.stream(model).body == b"data: [DONE]\n\n"
        assert process.tally(ended=1)[0]["announced"]["fresh"] == 5
        process.behave("gpt-5.6", "fault=503", times=1)
        process.key("key-2", "bad")
        assert client.chat("gpt-5.6").status == 503
        assert client.chat("gpt-5.6").status == 200
        assert [entry["status"] for entry in process.tally(1, ended=3)] == [503, 200]
        assert json.loads(process.requests(2)[0]["body"])["model"] == "gpt-5.6"
        assert process.totals()["gpt-5.6"]["requests"] == 2
        with client.open() as sock:
            sock.sendall(client.request("/v1/chat/completions", {"model": "x-sim:hold=g", "messages": [1]}))
            process.wait_gate("g")
            assert process.connections() == 1
            process.open_gate("g")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK")
        with pytest.raises(TimeoutError):
            process.tally(ended=99, timeout_s=0.01)
        with pytest.raises(ValueError, match="unknown key state"):
            process.key("k", "odd")
        process.reset()
        assert process.tally() == []
        assert process.stop() == 0


def test_command_line(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "simulator", "--ready-file", str(ready), "--key", "k=banned"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    assert ready.read_text() == url
    shown = subprocess.run([*command[:3], "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--ready-file" in shown.stdout
    wrong = subprocess.run(
        [*command[:3], "--key", "k=odd"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (wrong.returncode, "unknown key state" in wrong.stderr) == (2, True)


def test_it_also_runs_in_a_patched_process() -> None:
    code = """
from gevent import monkey; monkey.patch_all()
import urllib.request
from simulator import Simulator
with Simulator() as simulator:
    request = urllib.request.Request(simulator.url + "/v1/models", headers={"x-api-key": "k"})
    assert urllib.request.urlopen(request, timeout=90).status == 200
    assert simulator.tally.wait_ended(1)[0].end == "finished"
with simulator:
    assert simulator.url
print("fine")
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_simulator_shares_no_code_with_the_proxy() -> None:
    code = """
import sys, simulator, simulator.__main__
print([name for name in sys.modules if name.split(".")[0] in ("app", "workers")])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
