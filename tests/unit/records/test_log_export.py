"""CSV and JSON lines of records: nothing a spreadsheet would run, and everything comes back."""

import csv
import io
import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records.log_export import CSV_COLUMNS, csv_lines, jsonl_lines
from app.settings import ROOT

RECORD = {
    "_id": "r1",
    "requestId": "r1",
    "userId": "ann",
    "userKeyId": "sk-troll-ABCDEFGHIJKLMNOPQRSTUVWX",
    "model": "gpt",
    "stream": True,
    "inputTokens": 3,
    "creditsCost": 0.25,
    "costNanoUsd": 250_000_000,
    "errorType": None,
    "isSuccess": False,
    "attempts": [{}, {}],
    "createdAt": datetime(2026, 11, 23, 12, 0, 0, 123_000, tzinfo=UTC),
}


def read(records):
    text = "\r\n".join(csv_lines(records))
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_record_as_csv():
    (row,) = read([RECORD])
    assert tuple(row) == CSV_COLUMNS
    assert row["createdAt"] == "2026-11-23T12:00:00.123Z"
    assert (row["stream"], row["isSuccess"], row["attempts"], row["errorType"]) == ("true", "false", "2", "")
    assert (row["inputTokens"], row["costNanoUsd"], row["creditsCost"]) == ("3", "250000000", "0.25")
    assert row["userKeyId"] == "sk-troll...VWX"


def test_what_the_client_said_is_in_the_file():
    said = {"endUser": "=ann", "sessionId": "s1", "clientName": "curl/8.5.0", "tags": ["a", "b"]}
    (row, other) = read([{**RECORD, **said}, RECORD])
    names = ("endUser", "sessionId", "clientName", "tags")
    assert [row[name] for name in names] == ["'=ann", "s1", "curl/8.5.0", "a,b"]
    assert [other[name] for name in names] == [""] * 4


def test_what_a_request_was_charged_by_is_in_the_file_behind_all_else():
    items = [
        {"unit": "input", "quantity": 3, "nanoUsd": 200},
        {"unit": "web_search", "quantity": 1, "nanoUsd": 50},
    ]
    charged = {
        "priceVersion": "v7",
        "serviceTier": "flex",
        "unpriced": ["image", "speed:fast"],
        "costItems": items,
    }
    (row, other) = read([{**RECORD, **charged}, RECORD])
    assert CSV_COLUMNS[-5:] == ("upstreamCostNanoUsd", *charged)
    assert [row[name] for name in ("priceVersion", "serviceTier", "unpriced")] == [
        "v7",
        "flex",
        "image,speed:fast",
    ]
    assert json.loads(row["costItems"]) == items
    assert [other[name] for name in charged] == [""] * 4


def test_the_columns_and_their_order_are_in_the_documentation():
    shown = (ROOT / "docs" / "admin-api.md").read_text(encoding="utf-8").split("```text\n")
    assert ",".join(CSV_COLUMNS) in [block.split("```")[0].replace("\n", "") for block in shown]


def text_of(cell: str) -> str:
    """Take off the apostrophes that keep spreadsheets away."""
    return re.sub(r"(\A|[;\t\r\n])'", r"\1", cell)


def test_no_records_leave_the_heading():
    assert list(csv_lines([])) == [",".join(CSV_COLUMNS)]


def test_a_record_of_earlier_software_has_its_id():
    assert read([{"_id": 7}])[0]["requestId"] == "7"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "'"])
def test_what_a_spreadsheet_would_run_is_guarded(start):
    (row,) = read([RECORD | {"userId": f"{start}cmd|'/c calc'!A1"}])
    assert row["userId"].startswith("'")
    assert text_of(row["userId"]) == f"{start}cmd|'/c calc'!A1"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_comes_back(text):
    (row,) = read([RECORD | {"model": text, "userId": text}])
    assert text_of(row["model"]) == text_of(row["userId"]) == text
    assert not row["model"].startswith(("=", "+", "-", "@", "\t", "\r"))


def test_json_lines_hold_one_record_each():
    lines = list(jsonl_lines([RECORD, RECORD | {"_id": "r2", "model": "a\nb"}]))
    assert not any("\n" in line for line in lines)
    assert [json.loads(line)["id"] for line in lines] == ["r1", "r2"]
    assert "ABCDEFGH" not in lines[0]
