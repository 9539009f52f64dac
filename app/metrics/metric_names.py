"""The metrics of `GET /metrics`: one closed set, with every label's values bounded.

docs/metrics.md describes it; a test keeps the two alike. Counts are kept as whole numbers (milliseconds,
nano-dollars) and divided when they are shown, so that sums stay exact.
"""

from collections.abc import Container
from dataclasses import dataclass
from typing import Final, Literal

from app.records.records import Outcome
from app.wires.wire_format import WireFormat

OTHER: Final = "other"
"""Label value that stands for everything outside a label's bounds."""
NO_ANSWER: Final = "none"
"""The `status` of an upstream attempt that nothing came back from."""

MAX_KEY_IDS: Final = 1000
"""Upstream keys that get a label value of their own; further ones share `other`."""

FORMATS: Final = frozenset(map(str, WireFormat))
OUTCOMES: Final = frozenset(map(str, Outcome))
REASONS: Final = frozenset(
    (
        *("missing_api_key", "conflicting_api_keys", "invalid_api_key", "store_unavailable"),
        *("internal_error", "malformed_request", "request_timeout", "no_place"),
    )
)
INPUT_KINDS: Final = ("input", "cache_write", "cache_hit")
TOKEN_KINDS: Final = ("input", "output", "cache_write", "cache_hit", "reasoning")
# Reasoning is billed as output.
COST_KINDS: Final = ("input", "output", "cache_write", "cache_hit", "units")
KEY_STATES: Final = ("healthy", "rate_limited", "exhausted", "error")
ADMISSIONS: Final = ("ample", "held", "refused", "unverified")

_LATENCY_MS = (50, 100, 250, 500, 1000, 2500, 5000, 10_000, 20_000, 30_000, 60_000, 120_000, 300_000)
_FIRST_TOKEN_MS = (25, 50, 100, 250, 500, 1000, 2000, 3000, 5000, 10_000, 20_000, 60_000)
_OVERHEAD_MS = (1, 2, 3, 5, 10, 25, 50, 100, 250, 1000, 5000)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric as it is shown.

    `buckets` are upper bounds as the values are kept; `divisor` turns a kept value into a shown one; `across`
    says how the workers' values of a gauge become one.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[int, ...] = ()
    divisor: int = 1
    across: Literal["sum", "max", "min"] = "sum"


# What requests do, counted as each of them ends.

REQUESTS = MetricSpec(
    "weir_requests_total",
    "counter",
    "Requests of known callers that have ended; each left one record with these values, "
    "refusals beyond REFUSAL_RECORDS_RPM a common one",
    ("format", "model", "outcome", "status"),
)
DURATION = MetricSpec(
    "weir_request_duration_seconds",
    "histogram",
    "From just before a request was first forwarded to the last byte relayed "
    "(gen_ai.server.request.duration); only requests that went upstream",
    ("format", "model"),
    buckets=_LATENCY_MS,
    divisor=1000,
)
FIRST_TOKEN = MetricSpec(
    "weir_time_to_first_token_seconds",
    "histogram",
    "From just before a request was first forwarded to the first generated content of its stream "
    "(gen_ai.server.time_to_first_token)",
    ("format", "model"),
    buckets=_FIRST_TOKEN_MS,
    divisor=1000,
)
OVERHEAD = MetricSpec(
    "weir_overhead_seconds",
    "histogram",
    "From the acceptance of a request to its first forwarding: what the proxy adds",
    ("format",),
    buckets=_OVERHEAD_MS,
    divisor=1000,
)
TOKENS = MetricSpec(
    "weir_tokens_total",
    "counter",
    "Tokens booked (gen_ai.client.token.usage); input is fresh input without cache tokens, "
    "reasoning is part of output",
    ("model", "kind"),
)
COST = MetricSpec(
    "weir_cost_usd_total", "counter", "What the booked tokens cost, in USD", ("model", "kind"), divisor=10**9
)
ATTEMPTS = MetricSpec(
    "weir_upstream_attempts_total",
    "counter",
    "Tries at the upstream by key and HTTP status; `none` where no status came back",
    ("key", "status"),
)
KEY_INPUT = MetricSpec(
    "weir_upstream_key_input_tokens_total",
    "counter",
    "Input tokens by the upstream key that served: fresh, written to its cache, read from it",
    ("key", "kind"),
)
HOST_ATTEMPTS = MetricSpec(
    "weir_upstream_host_attempts_total",
    "counter",
    "Tries by upstream host (its position in OHMYGPT_BASE_URL) and HTTP status, where that names several; "
    "`none` where no status came back",
    ("host", "status"),
)
UNAUTHENTICATED = MetricSpec(
    "weir_unauthenticated_requests_total",
    "counter",
    "Requests whose caller could not be identified, so that they left no record",
    ("reason",),
)

USAGE_OPTION_REFUSED = MetricSpec(
    "weir_usage_option_refused_total",
    "counter",
    "Streams that the upstream served only without being asked for their usage (stream_options)",
)

ESTIMATED = MetricSpec(
    "weir_estimated_charges_total",
    "counter",
    "Whole answers that did not tell what they used, and were charged by estimate",
    ("model",),
)
UNPRICED = MetricSpec(
    "weir_unpriced_requests_total",
    "counter",
    "Requests that used what the model table has no price for (server tools, tiers); the record says what",
    ("model",),
)

# What the background has done so far.

RECOVERED = MetricSpec(
    "weir_recovered_interrupted_total",
    "counter",
    "Requests that a dying worker left open: recorded as interrupted afterwards, not in weir_requests_total",
)
LOST = MetricSpec("weir_lost_records_total", "counter", "Records gone for good; must be 0")
DEAD_LETTERS = MetricSpec(
    "weir_dead_letters_total", "counter", "Records that could not be booked and were put aside"
)
WRITTEN = MetricSpec("weir_writer_records_total", "counter", "Records booked in the store")
BATCHES = MetricSpec("weir_writer_batches_total", "counter", "Batches booked in the store")
RETRIES = MetricSpec("weir_writer_retries_total", "counter", "Attempts to book a batch that failed")
JOURNAL_ERRORS = MetricSpec(
    "weir_journal_write_errors_total", "counter", "Failed operations of the journal on the disk"
)
CREDIT = MetricSpec(
    "weir_credit_reservations_total",
    "counter",
    "Credit checks: passed on an ample balance, with a hold in the store, refused, "
    "or passed unverified with the store away",
    ("result",),
)
RATE_UNCHECKED = MetricSpec(
    "weir_rate_limit_unchecked_total",
    "counter",
    "Requests let through unchecked because the storage of rate limits (RATE_LIMIT_STORAGE_URI) failed",
)
LOST_OBJECT_IDS = MetricSpec(
    "weir_lost_object_ids_total",
    "counter",
    "Ids of what the upstream keeps (responses, batches, ...) that could not be stored beside the record: "
    "other workers know them once it is booked",
)

# What is now.

BUILD = MetricSpec(
    "weir_build_info",
    "gauge",
    "1 for each version of Weir that a worker runs: two of them while a reload replaces one by another",
    ("version",),
)
WORKERS = MetricSpec("weir_workers", "gauge", "Workers that are counted here")
IN_FLIGHT = MetricSpec("weir_requests_in_flight", "gauge", "Requests of known callers that have not ended")
QUEUE = MetricSpec("weir_queue_records", "gauge", "Records that wait for the background writer")
UNBOOKED = MetricSpec("weir_unbooked_records", "gauge", "Records that are not in the store yet")
MEMORY_ONLY = MetricSpec(
    "weir_memory_only_records", "gauge", "Those of them that are not in the journal either"
)
OLDEST = MetricSpec(
    "weir_oldest_unbooked_seconds", "gauge", "Age of the oldest record not in the store", across="max"
)
WRITER_LAG = MetricSpec(
    "weir_writer_lag_seconds", "gauge", "Age of the oldest record the writer has to book", across="max"
)
WRITER_FAILING = MetricSpec(
    "weir_writers_failing", "gauge", "Workers whose last attempt to book a batch failed"
)
OPEN_REQUESTS = MetricSpec(
    "weir_journal_open_requests",
    "gauge",
    "Requests the journal knows as forwarded and not ended, and sums of refusals",
)
JOURNAL_BYTES = MetricSpec(
    "weir_journal_bytes", "gauge", "Size of the whole journal on disk, of all slots", across="max"
)
JOURNAL_MAX_BYTES = MetricSpec("weir_journal_max_bytes", "gauge", "Its limit, JOURNAL_MAX_MB", across="max")
JOURNAL_FULL = MetricSpec(
    "weir_journal_full",
    "gauge",
    "1 when the journal takes no new requests: full, or its disk fails",
    across="max",
)
STORE_UP = MetricSpec(
    "weir_store_up",
    "gauge",
    "1 while every worker reaches the store and has its writes acknowledged, else 0",
    across="min",
)
RELOAD_REFUSED = MetricSpec(
    "weir_reload_refused",
    "gauge",
    "1 from a reload that was refused (the old model table stays in force) to the next that works, else 0",
    across="max",
)
MODEL_TABLE = MetricSpec(
    "weir_model_table_info",
    "gauge",
    "Workers that charge by this version of the model table: two versions while a reload is under way",
    ("version",),
)
HOSTS_UP = MetricSpec(
    "weir_upstream_host_up",
    "gauge",
    "1 while every worker sends requests to this upstream host, by its position in OHMYGPT_BASE_URL, "
    "0 while one leaves it alone",
    ("host",),
    across="min",
)
KEYS = MetricSpec("weir_upstream_keys", "gauge", "Keys of the pool by state", ("state",), across="max")
BALANCE = MetricSpec(
    "weir_upstream_balance",
    "gauge",
    "What OhMyGPT says the account has left, in its units; absent while that is not known",
    across="min",
)
FREE_BALANCE = MetricSpec(
    "weir_upstream_free_balance", "gauge", "The promotional part of it, in the same units", across="min"
)
ACCOUNT_AGE = MetricSpec(
    "weir_upstream_account_age_seconds",
    "gauge",
    "Age of what is known of OhMyGPT's account (OHMYGPT_MANAGEMENT_KEY); read every 300 s unless that fails",
    across="max",
)
KEY_USED = MetricSpec(
    "weir_upstream_key_used", "gauge", "What OhMyGPT says a key of the pool has used, in its units", ("key",)
)
KEY_CAP = MetricSpec(
    "weir_upstream_key_cap",
    "gauge",
    "What it may use, in the same units; absent for keys without a cap",
    ("key",),
)
KEY_DRIFT = MetricSpec(
    "weir_upstream_key_drift_ratio",
    "gauge",
    "How far yesterday's used fee of a key was from what was booked: 0.02 is two per cent more than booked",
    ("key",),
)
OF_ACCOUNT: Final = frozenset({BALANCE, FREE_BALANCE, ACCOUNT_AGE, KEY_USED, KEY_CAP, KEY_DRIFT})
"""Those that are absent as long as nothing is known."""

METRICS: Final = (
    REQUESTS, DURATION, FIRST_TOKEN, OVERHEAD, TOKENS, COST, ATTEMPTS, KEY_INPUT, HOST_ATTEMPTS,
    UNAUTHENTICATED, USAGE_OPTION_REFUSED, ESTIMATED, UNPRICED,
    RECOVERED, LOST, DEAD_LETTERS, WRITTEN, BATCHES, RETRIES, JOURNAL_ERRORS, CREDIT, RATE_UNCHECKED,
    LOST_OBJECT_IDS,
    BUILD, WORKERS, IN_FLIGHT, QUEUE, UNBOOKED, MEMORY_ONLY, OLDEST, WRITER_LAG, WRITER_FAILING,
    OPEN_REQUESTS, JOURNAL_BYTES, JOURNAL_MAX_BYTES, JOURNAL_FULL, STORE_UP,
    RELOAD_REFUSED, MODEL_TABLE, HOSTS_UP, KEYS,
    BALANCE, FREE_BALANCE, ACCOUNT_AGE, KEY_USED, KEY_CAP, KEY_DRIFT,
)  # fmt: skip
"""All of them, in the order of the page."""


def one_of(value: str | None, allowed: Container[str]) -> str:
    """Return the value if it is one of those allowed, else `other`."""
    return value if value is not None and value in allowed else OTHER


def status_label(status: int | None) -> str:
    """Turn an HTTP status into a label: three digits, `none` or `other`."""
    if status is None:
        return NO_ANSWER
    return str(status) if 100 <= status <= 599 else OTHER


class DistinctValues:
    """Lets the first `limit` distinct values of a label through; all further ones become `other`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[str] = set()

    def label(self, value: str) -> str:
        """Return the value, or `other`."""
        if value not in self._seen:
            if len(self._seen) >= self._limit:
                return OTHER
            self._seen.add(value)
        return value
