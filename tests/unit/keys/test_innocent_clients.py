"""What one client's requests meet never takes the keys from the others: the pool and the table together.

A good key serves what the innocent client sends. What the upstream answers to the other client, whatever it
is, is no reason to leave that key alone.
"""

import json
import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pool_attempts import KEYS, START, Answer, Judged, attempt, verdict_on

from app.keys.key_choice import NoKey
from app.keys.key_pool import SharedKeyPool
from app.keys.upstream_outcome import SERVED, TRANSPORT_FAILURES, KeyOutcome, Verdict

ALL_KEYS = frozenset({"env-1", "env-2", "env-3", "env-4"})

MESSAGES = st.sampled_from(
    [
        "",
        "No",
        "Provider returned error",
        "Rate limit reached for your API key",
        "Too many requests for your organization",
        "Your account has been suspended",
        "This API key was revoked",
        "Insufficient balance",
        "Your credit balance is too low to go on",
        "Your input was flagged",
        "Request too large for gpt on tokens per min",
        "The model is overloaded",
    ]
)
CODES = st.sampled_from(
    [None, "rate_limit_exceeded", "insufficient_quota", "account_deactivated", "invalid_api_key", "x"]
)
ANSWERS = st.tuples(
    st.sampled_from([200, 400, 401, 402, 403, 404, 429, 451, 500, 502, 503, 504, 524, 529]),
    st.builds(
        lambda message, code: json.dumps({"error": {"message": message, "code": code}}).encode(),
        MESSAGES,
        CODES,
    )
    | st.binary(max_size=20),
    st.sampled_from([None, None, "1", "60", "3600"]),
)
STEPS = st.lists(
    st.tuples(ANSWERS | st.sampled_from(sorted(TRANSPORT_FAILURES)), st.sampled_from([0.0, 0.5, 5.0, 90.0])),
    min_size=1,
    max_size=60,
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Thousands of transitions are of no interest."""
    log = logging.getLogger("app.keys.key_pool")
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(logging.NOTSET)


class Bench:
    """A pool that two clients use in turn, on a clock of its own."""

    def __init__(self) -> None:
        self.now = START
        self.pool = SharedKeyPool(KEYS, now=lambda: self.now)
        self.sent = 0

    def plays(
        self, client: str, answer: Answer | str, model: str = "m", good: frozenset[str] | None = None
    ) -> bool:
        """One request with all its tries; with `good`, those keys serve it and the others give the answer."""
        self.sent += 1

        def judged(key_id: str) -> Judged:
            is_good = good is not None and key_id in good
            return (SERVED, Verdict.RELAY, False) if is_good else verdict_on(answer, self.now)

        return attempt(self.pool, client, model, f"r{self.sent}", judged)


def limit(message: str) -> Answer:
    return 429, json.dumps({"error": {"message": message}}).encode(), "3600"


@settings(max_examples=60, deadline=None)
@given(STEPS)
@example([((403, b'{"error": {"message": "This API key was revoked"}}', None), 0.0)] * 60)
@example([(limit("Rate limit reached for your API key"), 0.0)] * 60)
@example([((402, b'{"error": {"code": "insufficient_quota"}}', None), 0.0)] * 60)
@example([("reset", 0.0)] * 60)
def test_whatever_one_client_is_answered_the_others_are_served_at_once(
    steps: list[tuple[Answer | str, float]],
) -> None:
    bench = Bench()
    for answer, seconds in steps:
        bench.plays("mallory", answer)
        bench.now += timedelta(seconds=seconds)
        assert bench.plays("alice", "unused", good=ALL_KEYS)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(1, 4))
def test_they_find_the_keys_that_are_good_too(steps: list[tuple[Answer | str, float]], bad: int) -> None:
    """With one key that nobody can use, whatever is known of the others."""
    bench = Bench()
    good = ALL_KEYS - {f"env-{bad}"}
    for answer, seconds in steps:
        bench.plays("mallory", answer)
        bench.now += timedelta(seconds=seconds)
        assert bench.plays("alice", (401, b"", None), good=good)
        assert bench.plays("bob", (401, b"", None), good=good)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_one_client_alone_bans_no_key(steps: list[tuple[Answer | str, float]]) -> None:
    bench = Bench()
    for answer, seconds in steps:
        bench.plays("mallory", answer)
        bench.now += timedelta(seconds=seconds)
    assert "error" not in bench.pool.statuses()


@pytest.mark.parametrize("clients", [1, 2])
def test_a_model_that_is_busy_leaves_other_models_alone(clients: int) -> None:
    bench = Bench()
    for number in range(20):
        bench.plays(
            f"user {number % clients}", (429, b'{"error": {"message": "Provider returned error"}}', "60")
        )
        assert bench.plays(f"user {number % clients}", "unused", model="other", good=ALL_KEYS)
    assert set(bench.pool.statuses()) == {"healthy"}
    refused = bench.pool.acquire(frozenset(), "user 0", "m")
    assert isinstance(refused, NoKey)
    assert refused.reason == "model"
    assert isinstance(bench.pool.acquire(frozenset(), "user 9", "m"), NoKey) == (clients == 2)


def test_what_one_key_alone_refuses_is_held_against_it() -> None:
    bench = Bench()
    for _ in range(24):
        assert bench.plays("ann", (500, b"", None), good=frozenset({"env-2", "env-3", "env-4"}))
        bench.now += timedelta(seconds=1)
    assert bench.pool.statuses() == ["rate_limited", "healthy", "healthy", "healthy"]
    assert bench.pool.snapshot()[0].last_error == "server_error"


def test_a_bare_402_of_one_key_empties_it() -> None:
    bench = Bench()
    for _ in range(4):
        assert bench.plays("ann", (402, b"", None), good=frozenset({"env-2", "env-3", "env-4"}))
    assert bench.pool.statuses()[0] == "exhausted"
    assert KeyOutcome.EXHAUSTED.value not in bench.pool.statuses()[1:]
