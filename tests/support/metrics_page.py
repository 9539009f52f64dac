"""Reading the operations endpoints of a running instance."""

import json
import tomllib
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from simulator.launcher import PATIENCE_S, Overdue, wait_until
from tests.support.weir_process import MODELS_FILE, WeirProcess

PRICES = {model["id"]: model for model in tomllib.loads(MODELS_FILE.read_text())["models"]}
ADMIN_TOKEN = "e2e-admin-token-of-tests"
"""What tests of these endpoints start their instance with."""

_NO_ANSWER = "the database cannot answer"

Samples = dict[str, dict[tuple[str, ...], float]]
"""Values by sample name and label values, the labels in alphabetical order."""


def ask(weir: WeirProcess, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and text of an answer, asked for with the admin token; again if the database had no time."""
    answers: list[tuple[int, str]] = []

    def is_told() -> bool:
        answers.append(_ask_once(weir, path, method))
        return method != "GET" or answers[-1][0] != 503 or _NO_ANSWER not in answers[-1][1]

    with suppress(Overdue):
        wait_until(is_told, step_s=1.0)
    return answers[-1]


def _ask_once(weir: WeirProcess, path: str, method: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    request = urllib.request.Request(weir.url + path, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read().decode()


def ask_json(weir: WeirProcess, path: str, method: str = "GET") -> dict[str, Any]:
    """The JSON of an answer, whatever its status; that is under `_status`."""
    status, text = ask(weir, path, method)
    return {**json.loads(text), "_status": status}


def scrape(weir: WeirProcess) -> Samples:
    """The metrics page."""
    samples: Samples = {}
    for family in text_string_to_metric_families(ask(weir, "/metrics")[1]):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            samples.setdefault(sample.name, {})[labels] = sample.value
    return samples


def value(samples: Samples, name: str) -> float:
    """A sample without labels, or the sum of one that has them."""
    return sum(samples.get(name, {}).values())


def expected(records: list[dict[str, Any]]) -> Samples:
    """What the counters have to say if these are the records of all requests that ended."""
    found: dict[str, Counter[tuple[str, ...]]] = {
        name: Counter()
        for name in (
            "weir_requests_total",
            "weir_tokens_total",
            "weir_cost_usd_total",
            "weir_upstream_attempts_total",
            "weir_upstream_key_input_tokens_total",
            "weir_request_duration_seconds_count",
            "weir_request_duration_seconds_sum",
            "weir_time_to_first_token_seconds_count",
            "weir_overhead_seconds_sum",
        )
    }
    for record in records:
        api_format, model = record["apiFormat"], record["model"] or "other"
        found["weir_requests_total"][
            api_format, model, record["outcome"], str(record["statusCode"])
        ] += 1  # fmt: skip
        for kind in ("input", "output", "cacheWrite", "cacheHit", "reasoning"):
            label = {"cacheWrite": "cache_write", "cacheHit": "cache_hit"}.get(kind, kind)
            found["weir_tokens_total"][label, model] += record[f"{kind}Tokens"]
            if kind in ("input", "cacheWrite", "cacheHit") and record.get("factoryKeyId"):
                labels = record["factoryKeyId"], label
                found["weir_upstream_key_input_tokens_total"][labels] += record[f"{kind}Tokens"]
        for kind, nano_usd in costs(record).items():
            found["weir_cost_usd_total"][kind, model] += nano_usd
        for attempt in record["attempts"]:
            status = "none" if attempt["statusCode"] is None else str(attempt["statusCode"])
            found["weir_upstream_attempts_total"][attempt["factoryKeyId"], status] += 1
        if record["attempts"]:
            found["weir_request_duration_seconds_count"][api_format, model] += 1
            found["weir_request_duration_seconds_sum"][api_format, model] += record["latencyMs"]
            found["weir_overhead_seconds_sum"][api_format,] += record["overheadMs"]
            if record["ttftMs"] is not None:
                found["weir_time_to_first_token_seconds_count"][api_format, model] += 1
    scales = {"weir_cost_usd_total": 10**9}
    scales |= {name: 1000 for name in found if name.endswith("_sum")}
    return {
        name: {labels: count / scales.get(name, 1) for labels, count in counts.items() if count}
        for name, counts in found.items()
    }


def costs(record: dict[str, Any]) -> dict[str, int]:
    """What a record's tokens cost by kind, in nano-dollars: prices are USD per million, all of them round."""
    price = PRICES.get(record["model"] or "", {})
    write_1h = record["cacheWrite1hTokens"]
    amounts = {
        "input": record["inputTokens"] * price.get("input", 0),
        "output": record["outputTokens"] * price.get("output", 0),
        "cache_write": (record["cacheWriteTokens"] - write_1h) * price.get("cache_write", 0)
        + write_1h * price.get("cache_write_1h", 0),
        "cache_hit": record["cacheHitTokens"] * price.get("cache_hit", 0),
    }
    found = {kind: round(amount * 1000) for kind, amount in amounts.items()}
    assert sum(found.values()) == record["costNanoUsd"]
    return found


def differences(samples: Samples, wanted: Samples) -> dict[str, Any]:
    """Where the page and the records disagree, by metric: (page, records)."""
    page = {name: {labels: v for labels, v in samples.get(name, {}).items() if v} for name in wanted}
    return {name: (page[name], wanted[name]) for name in wanted if page[name] != wanted[name]}
