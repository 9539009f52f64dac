"""Books that the reseller keeps itself, by its own prices: a drift that is put in is found, and no other."""

from datetime import timedelta

import pytest

from simulator.launcher import wait_until
from tests.support.day import a_zone_where_it_is_day
from tests.support.lab import CHAT, MESSAGES, Lab, check
from tests.support.metrics_page import ADMIN_TOKEN, ask_json
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

MANAGEMENT_KEY = "sk-management-0123456789"
UNITS_PER_USD = 241_400
EVEN, DEAR, SHARED, NEW = KEYS = tuple(f"sk-books-{name}-0123456789abcdef" for name in ("a", "b", "c", "d"))
PRICES = {
    "gpt-dear": {"fresh": 1000, "cache_read": 100, "output": 1000},
    "claude-test": {"fresh": 3, "output": 15, "cache_read": "0.3", "cache_write_5m": "3.75"},
}


def test_a_drift_is_found_and_none_where_there_is_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    with UpstreamProcess() as upstream:
        upstream.account(
            management_key=MANAGEMENT_KEY,
            prices=PRICES,
            units_per_usd=UNITS_PER_USD,
            drift={DEAR: 0.1},
            tokens={EVEN: {"used_fee": "1234.5"}, DEAR: {}, SHARED: {"used_fee": 7}, NEW: {"used_fee": "90"}},
        )
        with WeirProcess(
            tmp_path_factory.mktemp("books"),
            upstream.url,
            OHMYGPT_API_KEYS=",".join(KEYS),
            OHMYGPT_MANAGEMENT_KEY=MANAGEMENT_KEY,
            OHMYGPT_UNITS_PER_USD=str(UNITS_PER_USD),
            STATS_TIMEZONE=a_zone_where_it_is_day(),
            ADMIN_TOKEN=ADMIN_TOKEN,
        ) as weir:
            lab, snapshots = Lab(weir, upstream), weir.database["ohmygpt_used_fees"]
            wait_until(lambda: snapshots.find_one(), what="a snapshot")
            view = ask_json(weir, "/api/admin/ohmygpt/books?period=today")
            assert (view["agrees"], view["keys"]) == (False, [])
            assert "no two readings" in view["problem"]
            # As if it had been taken an hour ago.
            first = snapshots.find_one_and_delete({})
            assert first is not None
            snapshots.insert_one({**first, "_id": first["_id"] - timedelta(hours=1)})

            record = lab.plain(MESSAGES, "prompt=9000,cached=2000,write=3000,out=50").record
            check(record, "4000/2000/3000/50")
            used = set()
            for _ in range(40):
                record = lab.stream(CHAT, "prompt=1000,out=7", model="gpt-dear").record
                check(record, "1000/0/0/7")
                used.add(record["factoryKeyId"])
                if len(used) == len(KEYS):
                    break
            assert len(used) == len(KEYS)
            # A snapshot has what is booked by then, and sums are brought up to date after the records.
            records, sums = weir.record_count(), weir.database["request_rollups"]
            wait_until(lambda: sum(d["requests"] for d in sums.find()) >= records, what="the sums")
            lab.wait_entries(records)
            # One key is used elsewhere, too, and another one's count begins anew.
            upstream.account(elsewhere={SHARED: UNITS_PER_USD * 1000}, tokens={NEW: {"used_fee": "0"}})
            weir.database["ohmygpt_account"].update_one({"_id": "account"}, {"$unset": {"triedAt": ""}})
            wait_until(lambda: snapshots.count_documents({}) == 2, what="the next snapshot")

            view = ask_json(weir, "/api/admin/ohmygpt/books?period=today")
            found = {KEYS[int(row["key"].removeprefix("env-")) - 1]: row for row in view["keys"]}
            verdicts = {EVEN: "agrees", DEAR: "differs", SHARED: "differs", NEW: "reset"}
            assert {key: row["verdict"] for key, row in found.items()} == verdicts
            assert not view["agrees"]
            even = found[EVEN]
            assert even["upstreamCostNanoUsd"] == even["costNanoUsd"] > 10_000_000
            assert even["driftPercent"] == 0
            assert found[DEAR]["driftPercent"] == pytest.approx(100 / 11, abs=0.01)
            assert found[SHARED]["driftPercent"] > 99
            assert found[NEW]["driftPercent"] is None
            assert MANAGEMENT_KEY not in weir.log
