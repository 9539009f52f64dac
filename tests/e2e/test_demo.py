"""The demo on a port where another program answers."""

import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from simulator.launcher import ROOT


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_another_program_on_its_port_is_not_taken_for_the_proxy() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Healthy) as other:
        Thread(target=other.serve_forever).start()
        port = str(other.server_address[1])
        done = subprocess.run(
            [sys.executable, "-m", "simulator.demo", "--port", port],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        other.shutdown()
    assert done.returncode == 1
    assert f"{port} is in use" in done.stderr
