"""The account behind the keys: read with the management key, shown, and what it says about a refused key."""

import json
from typing import Any

import pytest

from simulator.launcher import wait_until
from tests.support.lab import CHAT, Lab, check
from tests.support.metrics_page import ADMIN_TOKEN, ask, ask_json, scrape
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import UPSTREAM_KEY, WeirProcess

MANAGEMENT_KEY = "sk-management-0123456789"


def key_view(weir: WeirProcess) -> dict[str, Any]:
    view: dict[str, Any] = ask_json(weir, "/api/admin/ohmygpt/keys")["keys"][0]
    return view


def read_anew(weir: WeirProcess) -> None:
    """Have the account read by the worker's next look, as it would be within a minute."""
    weir.database["ohmygpt_account"].update_one({"_id": "account"}, {"$unset": {"triedAt": ""}})


def test_a_capped_key_is_told_from_a_dead_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    with UpstreamProcess() as upstream:
        facts: dict[str, object] = {"used_fee": "40.5", "max_fee": "100"}
        tokens = {UPSTREAM_KEY: facts, "sk-somebody-elses-key": {}}
        upstream.account(management_key=MANAGEMENT_KEY, balance="8217.00", tokens=tokens, masks=True)
        with WeirProcess(
            tmp_path_factory.mktemp("account"),
            upstream.url,
            OHMYGPT_MANAGEMENT_KEY=MANAGEMENT_KEY,
            ADMIN_TOKEN=ADMIN_TOKEN,
        ) as weir:
            lab = Lab(weir, upstream)
            wait_until(lambda: key_view(weir)["maxFee"] == "100", what="the account to be read")
            view = key_view(weir)
            assert (view["usedFee"], view["capped"]) == ("40.5", False)
            account = ask_json(weir, "/api/admin/ohmygpt/account")
            assert (account["balance"], account["unmatchedKeys"], account["problem"]) == ("8217.00", 1, None)
            wait_until(lambda: "weir_upstream_balance" in scrape(weir), what="the metrics")
            page = scrape(weir)
            assert page["weir_upstream_balance"][()] == 8217
            assert page["weir_upstream_key_used"]["env-1",] == 40.5
            assert page["weir_upstream_key_cap"]["env-1",] == 100

            # The cap is used up: the only key is refused, and looks dead until the account has been read.
            upstream.account(tokens={UPSTREAM_KEY: facts | {"used_fee": "100"}})
            check(lab.plain(CHAT, "out=1").record, "–", "upstream_error", status=502)
            # It may have been read meanwhile, once a minute.
            wait_until(lambda: key_view(weir)["status"] in ("error", "exhausted"), what="the probe")
            read_anew(weir)
            wait_until(lambda: key_view(weir)["status"] == "exhausted", what="the cap to be known")
            view = key_view(weir)
            assert (view["lastError"], view["capped"]) == ("capped", True)

            upstream.account(tokens={UPSTREAM_KEY: facts | {"used_fee": "100", "max_fee": "200"}})
            read_anew(weir)
            wait_until(lambda: key_view(weir)["status"] == "healthy", what="the raised cap to be known")
            check(lab.plain(CHAT, "prompt=10,out=1").record, "10/0/0/1")

            def last_events() -> list[str]:
                return [event["why"] for event in ask_json(weir, "/api/admin/ohmygpt/events")["events"]][:2]

            wait_until(lambda: last_events() == ["cap raised", "capped"], what="what happened to be noted")

            # Readings that fail are told of, and leave what was known.
            upstream.account(management_key="another")
            read_anew(weir)
            wait_until(lambda: ask_json(weir, "/api/admin/ohmygpt/account")["problem"], what="the problem")
            account = ask_json(weir, "/api/admin/ohmygpt/account")
            assert "401" in account["problem"]
            assert account["balance"] == "8217.00"
            shown = ask(weir, "/metrics")[1] + json.dumps(account) + weir.log
            assert MANAGEMENT_KEY not in shown
            assert "elses" not in weir.log
