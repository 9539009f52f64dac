"""Any clients and one pool, step by step: nobody takes the keys from the others, and dead keys are found.

Keys are good or dead (the upstream refuses everything with them, and the pool's own probe), and large or
small (with a small one the upstream refuses large requests). Honest clients send what good keys serve. The
attacker gets any answer whatever, another one from each key, and words that the upstream repeats.
"""

import json
import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pool_attempts import KEYS, START, TRIES, Answer, Judged, attempt, verdict_on
from test_innocent_clients import ANSWERS

from app.keys.key_pool import SharedKeyPool
from app.keys.upstream_outcome import SERVED, TRANSPORT_FAILURES
from app.wires.client_words import ClientWords

NAMES = tuple(f"env-{number}" for number in range(1, len(KEYS) + 1))
HONEST = st.sampled_from(["alice", "bob"])
MODEL = st.sampled_from(["m", "n"])

DEAD = (401, b'{"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}', None)
TOO_MUCH = (429, b'{"error": {"message": "Rate limit reached on tokens per min", "code": "tokens"}}', "3600")

ECHOES = st.sampled_from(
    [
        "your account has been banned",
        "insufficient_quota",
        "account_deactivated",
        "Your credit balance is too low",
        "rate limit for your api key",
        "令牌已被禁用",
        "封禁",
        "余额不足",
        "invalid_api_key",
    ]
)
"""What the attacker may have the upstream repeat, in a message or in place of a code."""


@pytest.fixture(scope="module")
def quiet() -> Iterator[None]:
    """Thousands of transitions are of no interest."""
    log = logging.getLogger("app.keys.key_pool")
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(logging.NOTSET)


class Clients(RuleBasedStateMachine):
    """The pool as requests use it, with the loop of attempts around."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.pool = SharedKeyPool(KEYS, now=lambda: self.now)
        self.dead: set[str] = set()
        self.ever_dead: set[str] = set()
        self.small = {"env-1", "env-2"}
        self.sent = 0

    def send(
        self,
        client: str,
        model: str,
        answers: dict[str, Answer | str],
        words: ClientWords,
        *,
        is_large: bool = False,
    ) -> bool:
        """A request with all its tries; good keys not among `answers` serve it."""
        self.sent += 1

        def judged(key_id: str) -> Judged:
            answer = answers.get(key_id, (200, b"", None))
            if is_large and key_id in self.small:
                answer = TOO_MUCH
            if key_id in self.dead:
                answer = DEAD
            return verdict_on(answer, self.now, words=words, models=("m", "n"))

        return attempt(self.pool, client, model, f"r{self.sent}", judged)

    @rule(
        model=MODEL,
        answers=st.dictionaries(
            st.sampled_from(NAMES), ANSWERS | st.sampled_from(sorted(TRANSPORT_FAILURES))
        ),
    )
    def attack(self, model: str, answers: dict[str, Answer | str]) -> None:
        """Any answer from any key."""
        self.send("mallory", model, answers, ClientWords())

    @rule(answer=ANSWERS | st.sampled_from(sorted(TRANSPORT_FAILURES)), times=st.integers(1, 30))
    def insist(self, answer: Answer | str, times: int) -> None:
        """The same from all keys, again and again."""
        for _ in range(times):
            self.send("mallory", "m", dict.fromkeys(NAMES, answer), ClientWords())

    @rule(status=st.sampled_from([400, 401, 402, 403, 429]), words=ECHOES, is_code=st.booleans())
    def have_repeated(self, status: int, words: str, is_code: bool) -> None:
        """The upstream repeats the attacker's words, with one key: another serves the same."""
        body = json.dumps({"error": {"code": words} if is_code else {"message": words}}).encode()
        sent = ClientWords(json.dumps({"user": words}).encode())
        before = self.banned()
        self.send("mallory", "m", dict.fromkeys(NAMES, (status, body, None)), sent)
        assert self.banned() - before <= self.ever_dead

    def banned(self) -> set[str]:
        """The keys that are out of use for what was said of them."""
        states = zip(NAMES, self.pool.statuses(), strict=True)
        return {name for name, status in states if status in ("exhausted", "error")}

    @rule(model=MODEL)
    def send_a_large_one(self, model: str) -> None:
        """A request that is too large for some keys."""
        self.send("mallory", model, {}, ClientWords(), is_large=True)

    @rule(client=HONEST, model=MODEL)
    def be_honest(self, client: str, model: str) -> None:
        """Whoever asks for nothing special is served while one key is good."""
        assert self.send(client, model, {}, ClientWords())

    @rule(seconds=st.sampled_from([0.5, 3.0, 31.0, 90.0, 1000.0, 4000.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; the pool asks about what it doubts."""
        self.now += timedelta(seconds=seconds)
        for lease in self.pool.due_probes():
            finding = SERVED
            if lease.key.key_id in self.dead:
                finding = verdict_on(DEAD, self.now)[0]
            self.pool.report(lease, finding, "probe")

    @precondition(lambda self: len(self.dead) < TRIES - 1)
    @rule(name=st.sampled_from(NAMES))
    def kill(self, name: str) -> None:
        """A key dies; as many may as a request has tries, less one."""
        self.dead.add(name)
        self.ever_dead.add(name)

    @rule(name=st.sampled_from(NAMES))
    def revive(self, name: str) -> None:
        """An operator's account is whole again, and a while later the pool knows."""
        self.dead.discard(name)
        self.wait(4000.0)
        self.wait(4000.0)

    @precondition(lambda self: self.dead)
    @rule()
    def look_for_the_dead(self) -> None:
        """However it stands: once two clients have met a dead key, and a probe, it is out of use."""
        for _ in range(3 * len(NAMES)):
            self.be_honest("alice", "m")
            self.be_honest("bob", "n")
        self.wait(4000.0)
        self.wait(31.0)
        for _ in range(3 * len(NAMES)):
            self.be_honest("alice", "m")
            self.be_honest("bob", "n")
        self.wait(31.0)
        states = dict(zip(NAMES, self.pool.statuses(), strict=True))
        assert all(states[name] in ("error", "exhausted", "rate_limited") for name in self.dead)

    @invariant()
    def the_attacker_alone_bans_no_key(self) -> None:
        """Only a dead one is banned, or one that was."""
        states = zip(NAMES, self.pool.statuses(), strict=True)
        assert {name for name, status in states if status == "error"} <= self.ever_dead


Clients.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestClients = pytest.mark.usefixtures("quiet")(Clients.TestCase)
