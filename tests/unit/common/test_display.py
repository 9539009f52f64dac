import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.accounts.credentials import shown_key_id
from app.common.display import counted, iso_utc, json_ready
from app.records.shown_record import shown_record

NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


def test_moments_are_utc_with_z():
    assert iso_utc(NOON) == "2026-11-23T12:00:00.123Z"
    assert iso_utc(NOON.replace(tzinfo=None)) == "2026-11-23T12:00:00.123Z"
    assert iso_utc(NOON.astimezone(timezone(timedelta(hours=7)))) == "2026-11-23T12:00:00.123Z"


def test_anything_stored_becomes_json():
    class Foreign:
        def __str__(self):
            return "foreign"

    value = {"a": [NOON, float("nan"), 1.5, None, True, 3, "x"], 5: Foreign()}
    shown = json_ready(value)
    assert json.loads(json.dumps(shown, allow_nan=False)) == {
        "a": ["2026-11-23T12:00:00.123Z", None, 1.5, None, True, 3, "x"],
        "5": "foreign",
    }


@pytest.mark.parametrize("key_id", ["env", "user:ann", "wk_0123456789abcdef"])
def test_ids_this_product_made_are_shown(key_id):
    assert shown_key_id(key_id) == key_id


def test_keys_of_earlier_deployments_are_masked_wherever_a_record_names_them():
    secret = "sk-troll-ABCDEFGHIJKLMNOPQRSTUVWX"
    record = {"_id": 7, "userKeyId": secret, "friendKeyId": secret, "trollKeyId": None, "model": "m"}
    shown = shown_record(record)

    assert shown["userKeyId"] == shown["friendKeyId"] == "sk-troll...VWX"
    assert shown["id"] == "7"
    assert "_id" not in shown
    assert secret not in json.dumps(shown)
    assert record["userKeyId"] == secret


@pytest.mark.parametrize(
    ("things", "one"),
    [("users", "user"), ("client keys", "client key"), ("processes", "process"), ("proxies", "proxy")],
)
def test_one_thing_is_no_several_things(things, one):
    assert [counted(count, things) for count in (0, 1, 2, 1200)] == [
        f"0 {things}",
        f"1 {one}",
        f"2 {things}",
        f"1,200 {things}",
    ]
    assert counted(1, "keys are", one="key is") == "1 key is"
