import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.upstream_outcome import Finding, KeyOutcome, of_answer, of_failure
from app.core.verdict import TRANSPORT_FAILURES
from tests.support.growth import assert_grows_linearly

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
JSON = [("Content-Type", "application/json")]
HTML = [("content-type", "text/html; charset=UTF-8")]
PAGE = b"<!DOCTYPE html><html><h1>Your account has been suspended, insufficient balance</h1></html>"

OK, CLIENT, LIMITED, EXHAUSTED, SUSPECT, BANNED, FAILED, NEUTRAL = (
    KeyOutcome.OK,
    KeyOutcome.CLIENT_FAULT,
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


def found(status: int, body: bytes = b"", headers: list[tuple[str, str]] = JSON) -> Finding:
    return of_answer(status, headers, body, NOW)


SPENT_429 = (
    "You exceeded your current quota, please check your plan and billing details. For more information on "
    "this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)
TPM_429 = (
    "Rate limit reached for gpt-5 in organization org-1 on tokens per min (TPM): Limit 10000. Please "
    "try again in 6s. You can increase your rate limit by adding a payment method to your account."
)
RECHARGE = (
    "Insufficient balance. Please recharge your account at https://www.ohmygpt.com/billing to continue."
)

DEACTIVATED = "The OpenAI account associated with this API key has been deactivated."
LOW = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."


@pytest.mark.parametrize(
    ("status", "body", "outcome", "reason"),
    [
        (200, b"", OK, "ok"),
        (200, openai("insufficient_quota", code="insufficient_quota"), OK, "ok"),
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
            SUSPECT,
            "forbidden",
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
        (429, openai(TPM_429, "tokens", "rate_limit_exceeded"), LIMITED, "rate_limited"),
        (
            429,
            anthropic("This request would exceed your rate limit", "rate_limit_error"),
            LIMITED,
            "rate_limited",
        ),
        (429, openai("Quota exceeded for requests per minute"), LIMITED, "rate_limited"),
        (429, openai(SPENT_429 + " Please retry in 12.3s."), LIMITED, "rate_limited"),
        (429, openai("Your account is disabled"), LIMITED, "rate_limited"),
        (429, b"", LIMITED, "rate_limited"),
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
        (403, openai("Refused: 'your account is banned, insufficient quota'"), SUSPECT, "forbidden"),
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
        # bodies that are not what they seem
        (403, b'{"error": {"message": "account has been banned', SUSPECT, "forbidden"),
        (403, b'{"error": {"message": ["account has been banned"], "code": 7}}', SUSPECT, "forbidden"),
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
    assert (finding.cooldown_s is not None) == (outcome is LIMITED)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, FAILED),
        (401, FAILED),
        (403, FAILED),
        (400, CLIENT),
        (402, EXHAUSTED),
        (429, LIMITED),
        (502, FAILED),
    ],
)
def test_a_web_page_speaks_for_something_in_front_of_the_upstream(status: int, outcome: KeyOutcome) -> None:
    assert found(status, PAGE, HTML).outcome is outcome


@pytest.mark.parametrize(
    ("headers", "cooldown_s"),
    [
        ([], 120),
        ([("Retry-After", "7")], 7),
        ([("retry-after", "0.5")], 1),
        ([("retry-after", "0")], 1),
        ([("retry-after", "999999")], 3600),
        ([("retry-after-ms", "2500"), ("retry-after", "9")], 2.5),
        ([("retry-after-ms", "soon"), ("retry-after", "9")], 9),
        ([("retry-after", "in a minute")], 120),
        ([("retry-after", format_datetime(NOW + timedelta(seconds=90), usegmt=True))], 90),
        ([("retry-after", "Mon, 23 Nov 2026 12:00:30")], 30),
        ([("retry-after", format_datetime(NOW - timedelta(hours=1)))], 1),
    ],
)
def test_a_rate_limit_cools_down_as_long_as_told_within_bounds(
    headers: list[tuple[str, str]], cooldown_s: float
) -> None:
    assert found(429, b"", headers).cooldown_s == cooldown_s


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
    finding = of_answer(status, [("retry-after", retry_after)], body, NOW)
    assert (finding.outcome is LIMITED) == (finding.cooldown_s is not None)
    if finding.cooldown_s is not None:
        assert 1 <= finding.cooldown_s <= 3600


def test_a_huge_body_is_read_in_part() -> None:
    assert found(403, b"x" * 10_000_000 + b" account banned").outcome is SUSPECT
    assert found(403, openai("key " * 400_000 + "has been banned")).outcome is SUSPECT


def test_a_hostile_message_is_read_in_no_time() -> None:
    pieces = ("account ", "key is ", "model ", '"', "' ", "exceeded a b ", "user's ", "quota ")
    assert_grows_linearly(lambda size: [found(403, openai(piece * size)) for piece in pieces], 4_000)
