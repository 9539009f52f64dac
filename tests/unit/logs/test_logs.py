"""Logged lines: JSON or text, with the id of the request they belong to."""

import io
import json
import logging.config
from collections.abc import Iterator

import gevent
import pytest

from app.logs.current_request import request_id
from app.logs.log_repeats import MOST_LINES
from app.logs.process_log import logging_config
from app.settings import Settings


@pytest.fixture
def fresh_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    # Tests that call the application in this process leave theirs.
    outer = request_id.set(None)
    yield
    request_id.reset(outer)
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def log_to(log_format: str) -> io.StringIO:
    config = logging_config(Settings.from_env({"LOG_FORMAT": log_format}))
    stream = io.StringIO()
    config["handlers"]["stderr"]["stream"] = stream
    logging.config.dictConfig(config)
    return stream


def in_a_request(current: str, message: str) -> None:
    def work() -> None:
        request_id.set(current)
        gevent.sleep(0)
        logging.getLogger("weir.test").warning(message)

    gevent.spawn(work).join()


def test_json_names_the_request_and_only_it(fresh_logging: None) -> None:
    stream = log_to("json")
    in_a_request("r1", "first")
    in_a_request("r2", "second")
    logging.getLogger("weir.test").warning("outside")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["message"], line.get("request_id")) for line in lines] == [
        ("first", "r1"),
        ("second", "r2"),
        ("outside", None),
    ]
    assert lines[0].keys() == {"time", "level", "logger", "pid", "message", "request_id"}


def test_text_names_it_once(fresh_logging: None) -> None:
    stream = log_to("text")
    in_a_request("r1", "it failed")
    in_a_request("r2", "request r2 failed")
    assert [line.partition(" WARNING ")[2] for line in stream.getvalue().splitlines()] == [
        "it failed [request r1]",
        "request r2 failed",
    ]


def test_lines_of_one_kind_are_summed(fresh_logging: None) -> None:
    stream = log_to("json")
    log = logging.getLogger("weir.test")
    for number in range(MOST_LINES + 30):
        log.warning("something of %d", number)
    log.error("another")
    logging.getLogger().handlers[-1].close()
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert messages[:MOST_LINES] == [f"something of {number}" for number in range(MOST_LINES)]
    assert messages[MOST_LINES:] == ["another", "30 more within 60 s were left out: something of %d"]
