import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.keys.upstream_outcome import (
    PASSED_THROUGH,
    TRANSPORT_FAILURES,
    Finding,
    Judgement,
    KeyOutcome,
    RefusedAnswer,
    Verdict,
    client_kind,
    is_relayed,
    judge,
    of_failure,
)
from app.records.records import Outcome
from app.wires import errors
from app.wires.client_words import ClientWords
from app.wires.upstream_errors import read_error
from tests.support.growth import assert_grows_linearly

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
JSON = [("Content-Type", "application/json")]
HTML = [("content-type", "text/html; charset=UTF-8")]
PAGE = b"<!DOCTYPE html><html><h1>Your account has been suspended, insufficient balance</h1></html>"

CLIENT, MODEL, LIMITED, EXHAUSTED, SUSPECT, BANNED, FAILED, NEUTRAL = (
    KeyOutcome.CLIENT_FAULT,
    KeyOutcome.MODEL_LIMITED,
    KeyOutcome.RATE_LIMITED,
    KeyOutcome.EXHAUSTED,
    KeyOutcome.SUSPECT,
    KeyOutcome.BANNED,
    KeyOutcome.FAILED,
    KeyOutcome.NEUTRAL,
)


def openai(message: str, kind: str | None = "invalid_request_error", code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def anthropic(message: str, kind: str = "invalid_request_error", **details: str) -> bytes:
    error = {"type": kind, "message": message, "details": details or None}
    return json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()


def ohmygpt(status: int, message: str, kind: str) -> bytes:
    return json.dumps({"statusCode": status, "message": message, "errorType": kind, "data": None}).encode()


def row(
    status: int,
    body: bytes = b"",
    headers: list[tuple[str, str]] = JSON,
    client: ClientWords | None = None,
) -> Judgement:
    error = read_error(body, dict(headers).get("content-type", ""))
    return judge(RefusedAnswer(status, headers, error, ("vendor/busy", "busy"), client or ClientWords()), NOW)


def found(status: int, body: bytes = b"", headers: list[tuple[str, str]] = JSON) -> Finding:
    return row(status, body, headers).finding


SPENT_429 = (
    "You exceeded your current quota, please check your plan and billing details. For more information on "
    "this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)
TPM_429 = (
    "Rate limit reached for gpt-5 in organization org-1 on tokens per min (TPM): Limit 10000. Please "
    "try again in 6s. You can increase your rate limit by adding a payment method to your account."
)
LARGE_429 = "Request too large for gpt-5 in organization org-x on tokens per min (TPM): it must be reduced."
PROVIDER_429 = json.dumps(
    {
        "error": {
            "code": 429,
            "message": "Provider returned error",
            "metadata": {"provider_name": "P", "raw": "your key is at its limit"},
        }
    }
).encode()
SAFETY = '{"code": "safety"}'
RECHARGE = (
    "Insufficient balance. Please recharge your account at https://www.ohmygpt.com/billing to continue."
)

DEACTIVATED = "The OpenAI account associated with this API key has been deactivated."
LOW = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."


@pytest.mark.parametrize(
    ("status", "body", "outcome", "reason"),
    [
        (101, b"", NEUTRAL, "redirect"),
        (302, b"", NEUTRAL, "redirect"),
        # 401
        (
            401,
            openai("Incorrect API key provided: sk-ab***.", code="invalid_api_key"),
            SUSPECT,
            "unauthorized",
        ),
        (401, anthropic("invalid x-api-key", "authentication_error"), SUSPECT, "unauthorized"),
        (401, b"", SUSPECT, "unauthorized"),
        (401, b"Unauthorized", SUSPECT, "unauthorized"),
        (401, openai(DEACTIVATED, code="account_deactivated"), BANNED, "ban_code"),
        (401, openai(DEACTIVATED), BANNED, "ban_words"),
        (401, openai("This key is associated with a deactivated account."), BANNED, "ban_words"),
        (
            401,
            b'{"detail": "Your OpenAI account has been deactivated, check your email."}',
            BANNED,
            "ban_words",
        ),
        (401, b'{"detail": {"code": "token_revoked"}}', BANNED, "ban_code"),
        (401, b'{"errorType": "ApiKeyDisabled"}', BANNED, "ban_code"),
        (401, b'{"error": "API key revoked"}', BANNED, "ban_words"),
        (401, b"banned", BANNED, "ban_words"),
        (401, openai("该令牌额度已用尽", "new_api_error"), EXHAUSTED, "budget_words"),
        (401, openai("Your account has been suspended: insufficient balance."), EXHAUSTED, "budget_words"),
        # 402
        (402, b"", EXHAUSTED, "payment_required"),
        (402, ohmygpt(402, "balance too low", "insufficient_balance_error"), EXHAUSTED, "budget_code"),
        (402, openai(RECHARGE, "insufficient_balance_error"), EXHAUSTED, "budget_code"),
        (402, b'{"detail": {"code": "deactivated_workspace"}}', BANNED, "ban_code"),
        (
            402,
            openai("Insufficient Balance", "unknown_error", "invalid_request_error"),
            EXHAUSTED,
            "payment_required",
        ),
        # 403
        (403, anthropic("Request not allowed", "permission_error"), SUSPECT, "forbidden"),
        (
            403,
            openai("Country not supported", None, "unsupported_country_region_territory"),
            CLIENT,
            "request_refused",
        ),
        (
            403,
            openai("user quota is not enough", "new_api_error", "insufficient_user_quota"),
            EXHAUSTED,
            "budget_code",
        ),
        (403, openai("Key limit exceeded (total limit)."), EXHAUSTED, "budget_words"),
        (403, openai("You have been permanently banned."), BANNED, "ban_words"),
        (403, openai("用户已被封禁"), BANNED, "ban_words"),
        (
            403,
            b'[{"error": {"message": "Consumer \'api_key:AI\' has been suspended."}}]',
            BANNED,
            "ban_words",
        ),
        (403, openai("Your organization has been restricted."), BANNED, "ban_words"),
        (
            403,
            openai("Project does not have access to model gpt-5", code="model_not_found"),
            CLIENT,
            "request_refused",
        ),
        (403, openai("The model gpt-5 is disabled for your account"), CLIENT, "request_refused"),
        (403, openai("Your account uses a feature that has been disabled"), SUSPECT, "forbidden"),
        (
            403,
            openai("Your chosen model requires moderation and your input was flagged"),
            CLIENT,
            "request_refused",
        ),
        # 429
        (429, openai(SPENT_429, "insufficient_quota", "insufficient_quota"), EXHAUSTED, "budget_code"),
        (429, openai(SPENT_429, None), EXHAUSTED, "budget_words"),
        (429, openai(TPM_429, "tokens", "rate_limit_exceeded"), MODEL, "model_limited"),
        (
            429,
            anthropic("This request would exceed your rate limit", "rate_limit_error"),
            LIMITED,
            "rate_limited",
        ),
        (
            429,
            anthropic("Number of requests has exceeded your per-minute rate limit"),
            LIMITED,
            "rate_limited",
        ),
        (429, ohmygpt(429, "Too many requests", "rate_limit_error"), LIMITED, "rate_limited"),
        (429, openai("Rate limit reached for your API key: 60 requests per minute"), LIMITED, "rate_limited"),
        (429, openai("Concurrency limit reached for this organization"), LIMITED, "rate_limited"),
        (429, openai("Your account is disabled"), LIMITED, "rate_limited"),
        (429, openai("Quota exceeded for requests per minute"), MODEL, "model_limited"),
        (429, openai(SPENT_429 + " Please retry in 12.3s."), LIMITED, "rate_limited"),
        (
            429,
            openai("Rate limit reached for vendor/busy in your organization: requests"),
            MODEL,
            "model_limited",
        ),
        (429, openai("Your organization's limit of 40,000 input tokens per minute"), MODEL, "model_limited"),
        (429, openai("Rate limit reached", "requests", "rate_limit_exceeded"), MODEL, "model_limited"),
        (429, openai("The engine is overloaded for your account"), MODEL, "model_limited"),
        (429, PROVIDER_429, MODEL, "model_limited"),
        (429, b"", MODEL, "model_limited"),
        (429, openai(LARGE_429, "tokens", "rate_limit_exceeded"), CLIENT, "request_too_large"),
        (429, openai("TPM: Limit 30,000, Used 5, Requested 31,000."), CLIENT, "request_too_large"),
        (429, openai("TPM: Limit 30,000, Used 29,999, Requested 1,000."), MODEL, "model_limited"),
        (429, anthropic("Extra usage is required for long context requests."), CLIENT, "request_too_large"),
        # 400
        (400, openai("Invalid JSON"), CLIENT, "client_fault"),
        (
            400,
            openai("Billing hard limit has been reached", code="billing_hard_limit_reached"),
            EXHAUSTED,
            "budget_code",
        ),
        (400, anthropic(LOW), EXHAUSTED, "budget_words"),
        (400, anthropic("You have reached your specified API usage limits."), EXHAUSTED, "budget_words"),
        (
            400,
            openai("Budget has been exceeded! Current cost: 10", "budget_exceeded"),
            EXHAUSTED,
            "budget_code",
        ),
        (
            400,
            anthropic("x", "invalid_request_error", error_code="credit_balance_too_low"),
            EXHAUSTED,
            "budget_code",
        ),
        (400, anthropic("This organization has been disabled."), BANNED, "ban_words"),
        (400, openai("Organization has been restricted. Please reach out."), BANNED, "ban_words"),
        # what says nothing about the key
        (
            400,
            openai("Unsupported value: insufficient balance, account has been banned"),
            CLIENT,
            "client_fault",
        ),
        (403, openai("RefusedAnswer: 'your account is banned, insufficient quota'"), SUSPECT, "forbidden"),
        (
            403,
            openai("You can't do that, it's not the account's \"key has been revoked\""),
            SUSPECT,
            "forbidden",
        ),
        (404, openai("insufficient_quota", code="insufficient_quota"), CLIENT, "client_fault"),
        (413, b"", CLIENT, "client_fault"),
        (422, b"", CLIENT, "client_fault"),
        # outages
        (500, openai("insufficient balance", code="insufficient_quota"), FAILED, "server_error"),
        (529, anthropic("Overloaded", "overloaded_error"), FAILED, "server_error"),
        (503, openai("No available channel", "new_api_error", "model_not_found"), CLIENT, "request_refused"),
        (500, openai("x", "upstream_error", "content_filter"), CLIENT, "request_refused"),
        # bodies that are not what they seem
        (403, b'{"error": {"message": "account has been banned', SUSPECT, "forbidden"),
        (403, b'{"error": {"message": ["account has been banned"], "code": 7}}', BANNED, "ban_words"),
        (403, b"[]", SUSPECT, "forbidden"),
        (403, b'"account has been banned"', BANNED, "ban_words"),
        (401, PAGE, FAILED, "web_page"),
        (402, PAGE, EXHAUSTED, "payment_required"),
    ],
)
def test_what_an_answer_says_about_its_key(
    status: int, body: bytes, outcome: KeyOutcome, reason: str
) -> None:
    finding = found(status, body)
    assert (finding.outcome, finding.reason) == (outcome, reason)
    assert finding.cooldown_s is None


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, FAILED),
        (401, FAILED),
        (403, FAILED),
        (400, CLIENT),
        (402, EXHAUSTED),
        (429, MODEL),
        (502, FAILED),
        (524, FAILED),
    ],
)
def test_a_web_page_speaks_for_something_in_front_of_the_upstream(status: int, outcome: KeyOutcome) -> None:
    assert found(status, PAGE, HTML).outcome is outcome


@pytest.mark.parametrize(
    ("told", "cooldown_s"),
    [("7", 7), ("0.5", 1), ("-3", 1), ("999999", 3600), ("9" * 30, 3600), ("soon", None)],
)
@pytest.mark.parametrize("body", [b"", ohmygpt(429, "Too many requests", "rate_limit_error")])
def test_a_limit_lasts_as_long_as_told_within_bounds(
    body: bytes, told: str, cooldown_s: float | None
) -> None:
    assert found(429, body, [("Retry-After", told)]).cooldown_s == cooldown_s


def test_headers_speak_of_the_key_when_no_requests_are_left() -> None:
    for name in ("x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining"):
        assert found(429, b"", [(name, "0")]).outcome is LIMITED
        assert found(429, b"", [(name, "5")]).outcome is MODEL
    # Tokens are counted for each model, and by what a request asks for.
    assert found(429, b"", [("x-ratelimit-remaining-tokens", "0")]).outcome is MODEL


@pytest.mark.parametrize(
    "body",
    [
        openai(
            "Rejected as a result of our safety system", "image_generation_user_error", "moderation_blocked"
        ),
        openai("Input was flagged"),
        openai("The input contains inappropriate content"),
        openai("Content violates usage guidelines. Failed check: x"),
        openai("You do not have access to the model"),
        openai("User location is not supported for the API use."),
        b'{"error": {"code": 403, "message": "No", "metadata": {"reasons": ["x"], "flagged_input": "y"}}}',
        b'{"error": {"message": "No", "innererror": {"content_filter_result": {"hate": {"filtered": 1}}}}}',
        b'{"error": {"message": "No", "innererror": {"code": "ResponsibleAiPolicyViolation"}}}',
        b'{"detail": {"error": {"more": {"code": "content_filter"}}}}',
        b'[{"error": {"message": "No", "details": [{"reason": "PROHIBITED_CONTENT"}]}}]',
        json.dumps({"error": {"message": "Provider returned error", "metadata": {"raw": SAFETY}}}).encode(),
    ],
)
def test_a_403_about_content_model_or_region_is_the_clients_affair(body: bytes) -> None:
    it = row(403, body)
    assert (it.finding.outcome, it.verdict, it.kind.status, it.passes) == (CLIENT, Verdict.FAIL, 403, True)


def test_a_403_that_gives_no_reason_counts_only_if_another_key_serves_the_request() -> None:
    told, silent = row(403, openai("Request not allowed")), row(403, b"")
    assert told.in_doubt and silent.in_doubt  # noqa: PT018
    assert (told.kind.status, told.passes) == (403, True)
    assert (silent.kind, silent.passes) == (errors.UPSTREAM_ACCOUNT, False)
    said = row(403, openai("This key may not do that"))
    assert not said.in_doubt
    assert (said.finding.outcome, said.kind) == (SUSPECT, errors.UPSTREAM_ACCOUNT)


ECHOES = [
    "user your-key has been banned is not allowed here",
    "account has been suspended: bad value",
    "insufficient quota is no valid name",
    "Your credit balance is too low, said the fox",
]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 429])
@pytest.mark.parametrize("words", ECHOES)
@pytest.mark.parametrize("is_escaped", [False, True])
def test_words_of_the_client_prove_nothing(status: int, words: str, is_escaped: bool) -> None:
    sent = json.dumps({"user": words.upper()})
    if is_escaped:
        sent = '{"user": "' + "".join(f"\\u{ord(letter):04x}" for letter in words) + '"}'
    it = row(status, openai(words), client=ClientWords(sent.encode()))
    assert it.finding.outcome is not BANNED
    assert it.finding.outcome is not EXHAUSTED or not it.finding.is_proof
    if status == 400:
        assert (it.kind.status, it.passes) == (400, True)
    for client in (ClientWords(b"", f"a={words.replace(' ', '+')}"), ClientWords(b"", "", (words,))):
        assert row(status, openai(words), client=client).finding == it.finding


def test_a_reason_that_the_client_may_have_had_a_hand_in_is_not_shown_either() -> None:
    it = row(400, anthropic(LOW), client=ClientWords(b'{"content": "on credit"}'))
    assert (it.finding.outcome, it.kind, it.passes) == (CLIENT, errors.UPSTREAM_ACCOUNT, False)


def test_a_refusal_that_repeats_what_the_client_says_about_keys_is_the_clients() -> None:
    asked = "How do I reset my API key? It is for my account."
    echo = openai(f"Not allowed: {asked}")
    it = row(403, echo, client=ClientWords(json.dumps({"content": f"Hello. {asked} Thanks"}).encode()))
    assert (it.kind.status, it.passes, it.in_doubt) == (403, True, True)
    assert row(403, echo).kind is errors.UPSTREAM_ACCOUNT
    # Single words of the client's do not bring the operator's affairs to it, nor hide them.
    words = ClientWords(b'{"content": "my account, my key, my balance: all not allowed"}')
    for message in ("Your account may not do that", f"{asked} Your balance is negative"):
        it = row(403, openai(message), client=words)
        assert (it.kind, it.passes) == (errors.UPSTREAM_ACCOUNT, False)
    it = row(403, openai("Your account is at fault. The key has leaked"), client=ClientWords(b"account"))
    assert (it.finding.outcome, it.in_doubt) == (SUSPECT, False)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Incorrect API key provided: sk***ef. You can obtain an API key from the console."),
        (400, "API key not valid. Please pass a valid API key."),
        (400, "Your API key has expired"),
        (403, "Your newly created team doesn't have any credits or licenses yet."),
        (403, "Access denied due to Virtual Network/Firewall rules."),
        (403, "This token has no quota"),
    ],
)
def test_refusals_of_the_operator_are_told_by_their_words_alone(status: int, message: str) -> None:
    it = row(status, openai(message))
    assert (it.finding.outcome, it.kind, it.passes) == (SUSPECT, errors.UPSTREAM_ACCOUNT, False)
    repeated = ClientWords(json.dumps({"x": message}).encode())
    assert row(status, openai(message), client=repeated).finding.outcome is not BANNED
    assert found(400, openai(f"messages.0.content: {message}")).outcome is CLIENT


def test_a_code_deep_inside_counts_unless_the_client_sent_it() -> None:
    body = b'{"error": {"message": "No", "details": [{"reason": "API_KEY_INVALID"}]}}'
    assert found(400, body).outcome is SUSPECT
    assert row(400, body, client=ClientWords(b'{"x": "api_key_invalid"}')).finding.outcome is CLIENT


@pytest.mark.parametrize("status", [400, 401, 402, 403, 429])
@pytest.mark.parametrize("code", ["insufficient_quota", "account_deactivated", "invalid_api_key"])
def test_a_code_that_the_client_sent_counts_for_nothing_and_is_not_shown(status: int, code: str) -> None:
    """By its status alone an answer may cast a doubt, which the pool looks into."""
    it = row(status, openai("No", None, code), client=ClientWords(json.dumps({"user": code}).encode()))
    assert it.finding.outcome not in (BANNED, EXHAUSTED) or not it.finding.is_proof
    if status == 400:
        assert it.finding.outcome is CLIENT
    if it.kind is errors.UPSTREAM_ACCOUNT:
        assert not it.passes
    other = row(status, openai("No", None, code), client=ClientWords(b'{"user": "quota account key"}'))
    assert other == row(status, openai("No", None, code))


def test_a_smaller_request_may_be_paid_for() -> None:
    body = openai("You requested up to 65536 tokens, but can only afford 1200.", None, "insufficient_credits")
    assert found(402, body).outcome is CLIENT
    assert found(402, b"").is_proof is False
    assert found(402, openai("Insufficient Balance")).is_proof is True


@pytest.mark.parametrize("status", [*range(100, 200), *range(300, 600)])
def test_every_status_has_its_row(status: int) -> None:
    it = row(status, openai("x"))
    assert not is_relayed(status)
    assert 400 <= it.kind.status < 600
    assert it.kind.status not in (401, 402, 407)
    if it.passes:
        assert it.kind.status == status
        assert it.kind == PASSED_THROUGH.get(status, client_kind(status))
    if status in (504, 524):
        assert (it.verdict, it.kind) == (Verdict.FAIL, errors.UPSTREAM_TIMEOUT)
    elif status in (401, 402, 403, 429) or status >= 500:
        assert it.verdict is Verdict.NEXT_KEY
    else:
        assert it.verdict is Verdict.FAIL
    if status in (405, 410, 418, 424, 451):
        assert (it.kind.status, it.passes, it.finding.outcome) == (status, True, CLIENT)
    if status == 407 or status < 400:
        assert it.kind is errors.UPSTREAM_FAILED


@pytest.mark.parametrize(
    ("kind", "status", "outcome", "may_retry"),
    [
        ("unreachable", 502, Outcome.UPSTREAM_UNREACHABLE, True),
        ("no_proxy", 502, Outcome.UPSTREAM_UNREACHABLE, True),
        ("reset", 502, Outcome.UPSTREAM_UNREACHABLE, True),
        ("timeout", 504, Outcome.UPSTREAM_TIMEOUT, False),
        ("truncated", 502, Outcome.UPSTREAM_TRUNCATED, True),
        ("garbled", 502, Outcome.UPSTREAM_ERROR, False),
    ],
)
def test_every_failure_of_the_transport_has_its_ending(
    kind: str, status: int, outcome: Outcome, may_retry: bool
) -> None:
    told, booked, message, retry = TRANSPORT_FAILURES[kind]
    assert (told.status, booked, retry) == (status, outcome, may_retry)
    assert message.endswith(".")


def test_every_transport_failure_has_its_row() -> None:
    for kind in TRANSPORT_FAILURES.keys() - {"no_proxy"}:
        assert of_failure(kind) == Finding(FAILED, kind)
    # What the operator's own proxies do is no key's fault.
    for kind in ("no_proxy", "client_abort", "internal_error", "interrupted"):
        assert of_failure(kind).outcome is NEUTRAL


@given(
    status=st.integers(100, 599),
    body=st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(["error", "detail", "details", "type", "code", "message"]), inner
                ),
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    ),
    retry_after=st.text(max_size=20),
)
def test_any_answer_is_judged(status: int, body: bytes, retry_after: str) -> None:
    finding = found(status, body, [("retry-after", retry_after)])
    if finding.cooldown_s is not None:
        assert finding.outcome in (LIMITED, MODEL)
        assert 1 <= finding.cooldown_s <= 3600


def test_a_huge_body_is_read_in_part() -> None:
    assert found(403, b"x" * 10_000_000 + b" account banned").outcome is SUSPECT
    assert found(403, openai("key " * 400_000 + "has been banned")).outcome is SUSPECT


def test_a_hostile_message_is_read_in_no_time() -> None:
    pieces = ("account ", "key is ", "model ", '"', "' ", "exceeded a b ", "user's ", "quota ")
    assert_grows_linearly(lambda size: [found(403, openai(piece * size)) for piece in pieces], 4_000)
