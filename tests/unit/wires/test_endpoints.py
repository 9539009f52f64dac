"""The table of endpoints, and what is read off it."""

import pytest

from app.wires.endpoints import (
    API,
    ENDPOINTS,
    FORWARDED,
    GET_MODEL,
    UNKNOWN,
    Endpoint,
    Metering,
    format_of_call,
    format_of_path,
    is_of_api,
)
from app.wires.wire_format import WireFormat


def test_no_two_rows_are_about_the_same() -> None:
    for column in (lambda row: (row.method, row.path), lambda row: row.route or row.name):
        assert len(set(map(column, ENDPOINTS))) == len(ENDPOINTS)


def test_every_row_is_under_the_api_and_says_what_it_is_for() -> None:
    for row in ENDPOINTS:
        assert is_of_api(row.path)
        assert row.summary
        assert row.name != UNKNOWN.name


def test_what_stays_here_costs_nothing_upstream() -> None:
    assert {row for row in ENDPOINTS if row.is_billed} < set(FORWARDED)
    assert not UNKNOWN.is_billed


@pytest.mark.parametrize(
    ("path", "shown", "fixed"),
    [
        ("/v1/x", "/v1/x", "/v1/x"),
        ("/v1/x/<id>", "/v1/x/{id}", "/v1/x"),
        ("/v1/x/<path:id>", "/v1/x/{id}", "/v1/x"),
        ("/v1/x/<id>/y/<path:part>", "/v1/x/{id}/y/{part}", "/v1/x"),
    ],
)
def test_a_path_is_shown_as_people_write_it(path: str, shown: str, fixed: str) -> None:
    row = Endpoint("x", "GET", path, metering=Metering.NOTHING)
    assert (row.shown_path, row.fixed_path, row.has_parameters) == (shown, fixed, shown != fixed)


@pytest.mark.parametrize(
    ("path", "wire_format"),
    [
        ("/v1/messages", WireFormat.ANTHROPIC),
        ("/v1/messages/count_tokens", WireFormat.ANTHROPIC),
        ("/v1/messages/batches", WireFormat.ANTHROPIC),
        ("/v1/chat/completions", WireFormat.OPENAI),
        ("/v1/models", WireFormat.OPENAI),
        ("/v1/nothing", WireFormat.OPENAI),
        ("/health", WireFormat.OPENAI),
    ],
)
def test_a_path_speaks_the_format_of_the_row_it_is_under(path: str, wire_format: WireFormat) -> None:
    assert format_of_path(path) is wire_format
    assert format_of_call(path, {}) is wire_format
    assert format_of_call(path, {"anthropic-version": "2023-06-01"}) is WireFormat.ANTHROPIC


@pytest.mark.parametrize(
    ("path", "is_ours"),
    [(API, True), (f"{API}/", True), (GET_MODEL.path, True), ("/v10/x", False), ("/", False)],
)
def test_the_api_is_what_is_under_its_path(path: str, is_ours: bool) -> None:
    assert is_of_api(path) is is_ours
