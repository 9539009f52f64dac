"""What an attempt says about the upstream key it was made with: a table, with its reasons.

`app.core.verdict` says what the status means for the request; this says what it means for the key.

    answer                                        the key                    because
    2xx                                           OK
    2xx with a web page                           FAILED                     something in front answered
    1xx, 3xx                                      NEUTRAL                    a wrong base URL, for every key
    400 that opens with a known phrase, or code   EXHAUSTED, BANNED          both vendors do that
    401                                           SUSPECT, EXHAUSTED, BANNED by code, then by words
    402                                           EXHAUSTED, BANNED          BANNED by code only
    403                                           as 401                     CLIENT_FAULT: a model or content
    401, 403 with a web page                      FAILED                     a firewall knows no keys
    429                                           RATE_LIMITED, EXHAUSTED    by code, then by words
    other 4xx                                     CLIENT_FAULT               the key was not even the question
    5xx, transport failures                       FAILED
    the client left, an error of our own          NEUTRAL

Only bodies of error answers are looked at, so nothing a model says counts. An error message may still repeat
what the client wrote. Hence codes come before words; words in quotes are not read; a 400, which exists to
repeat the client's mistakes, is read only if it opens with a phrase known from the vendors.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from app.core.lenient_json import loads_lenient

DEFAULT_COOLDOWN_S = 120.0
MAX_COOLDOWN_S = 3600.0
_MIN_COOLDOWN_S = 1.0

_MAX_BODY = 64 * 1024
_MAX_WORDS = 2000
_MAX_CODE = 100


class KeyOutcome(Enum):
    """What an attempt says about its key."""

    OK = "ok"
    CLIENT_FAULT = "client_fault"  # the request was wrong; the upstream is alive
    RATE_LIMITED = "rate_limited"
    EXHAUSTED = "exhausted"
    SUSPECT = "suspect"  # refused, but for reasons that may pass: another request has to confirm it
    BANNED = "banned"
    FAILED = "failed"  # an outage, which may be this key's alone
    NEUTRAL = "neutral"  # nothing at all


@dataclass(frozen=True, slots=True)
class Finding:
    """An outcome and why. `reason` is of a closed set and holds no upstream text, so it may be shown.

    `cooldown_s` (seconds) is there for RATE_LIMITED only.
    """

    outcome: KeyOutcome
    reason: str
    cooldown_s: float | None = None


_OK = Finding(KeyOutcome.OK, "ok")
_CLIENT_FAULT = Finding(KeyOutcome.CLIENT_FAULT, "client_fault")
_REFUSED_REQUEST = Finding(KeyOutcome.CLIENT_FAULT, "request_refused")
_REDIRECT = Finding(KeyOutcome.NEUTRAL, "redirect")
_WEB_PAGE = Finding(KeyOutcome.FAILED, "web_page")
_SERVER_ERROR = Finding(KeyOutcome.FAILED, "server_error")
_UNAUTHORIZED = Finding(KeyOutcome.SUSPECT, "unauthorized")
_FORBIDDEN = Finding(KeyOutcome.SUSPECT, "forbidden")
_PAYMENT_REQUIRED = Finding(KeyOutcome.EXHAUSTED, "payment_required")
_BUDGET_CODE = Finding(KeyOutcome.EXHAUSTED, "budget_code")
_BUDGET_WORDS = Finding(KeyOutcome.EXHAUSTED, "budget_words")
_BAN_CODE = Finding(KeyOutcome.BANNED, "ban_code")
_BAN_WORDS = Finding(KeyOutcome.BANNED, "ban_words")

_FAILURES: Mapping[str, Finding] = {
    kind: Finding(KeyOutcome.FAILED, kind)
    for kind in ("unreachable", "reset", "timeout", "truncated", "garbled")
}

FAILURE_REASONS = frozenset(_FAILURES) | {_WEB_PAGE.reason, _SERVER_ERROR.reason}
"""The reasons of every `FAILED`."""

_BUDGET_CODES = frozenset(
    {
        "insufficient_balance_error",  # OhMyGPT
        "insufficient_balance",
        "insufficient_quota",  # OpenAI, with a 429
        "insufficient_credit",
        "insufficient_credits",
        "insufficient_funds",
        "insufficient_user_quota",  # new-api and its kin, with a 403
        "pre_consume_token_quota_failed",
        "exceeded_current_quota_error",
        "billing_hard_limit_reached",  # OpenAI, with a 400
        "billing_not_active",
        "billing_error",  # Anthropic
        "budget_exceeded",  # LiteLLM, with a 400
        "credit_balance_too_low",
        "account_overdue_error",
        "arrearage",
    }
)
_REQUEST_CODES = frozenset(
    {
        "model_not_found",
        "model_not_allowed",
        "content_filter",
        "content_policy_violation",
        "moderation_blocked",
    }
)

_GONE = r"(?:banned|disabled|deactivated|revoked|suspended|terminated)"
# These are also said of requests and of what a key may do, so they take a stricter phrase.
_SHUT = r"(?:banned|disabled|deactivated|revoked|suspended|terminated|blocked|restricted)"
_OWNER = r"(?:account|api[ _-]?key|key|token|user|consumer|organi[sz]ation|org|workspace|project)"
_BAN_CODES = re.compile(
    rf"(?:{_OWNER}_(?:is_|has_been_)?{_SHUT}|{_SHUT}_{_OWNER}|banned|deactivated|revoked|suspended|access_terminated)"
)
# Somebody who may be banned has to be named: models, features and streams are "disabled" as well.
_GAP = r"(?:(?!\b(?:model|feature|endpoint|stream)\b)[^.!?]){0,80}?"
_BAN_PHRASES = re.compile(
    rf"\b{_OWNER}s?\b(?:{_GAP}\b(?:is|are|was|were|has been|have been)(?: \w+ly)?)? {_GONE}\b"
    rf"|\b{_GONE} {_OWNER}\b"
    rf"|\b(?:account|key|organi[sz]ation) has been {_SHUT}\b"
    rf"|\byou (?:are|were|have been)(?: \w+ly)? {_GONE}\b"
    rf"|^\W*{_GONE}\W*$"
    "|封禁|封号|(?:令牌|密钥|账号|账户|用户)[^。]{0,20}(?:禁用|停用|吊销|冻结)",
    re.IGNORECASE,
)
_BUDGET_PHRASES = re.compile(
    r"\b(?:insufficient|not enough|out of|lack of) (?:\w+ )?(?:balance|quota|credits?|funds?)\b"
    r"|\b(?:balance|quota|credits?|funds?)(?: (?:is|are|has been|have been))?"
    r" (?:too low|not enough|insufficient|exhausted|used up|depleted|run out)\b"
    r"|\b(?:budget|quota|spend(?:ing)? limit|credit limit|key limit|usage limit)"
    r"(?: (?:is|was|has been|have been))? (?:exceeded|reached)\b"
    r"|\bexceed(?:s|ed)? (?:\w+ ){0,3}(?:budget|quota|credits?|spend(?:ing)? limit)\b"
    r"|\breached (?:\w+ ){0,3}(?:usage|spend(?:ing)?|credit) limits?\b"
    r"|\bbilling (?:hard |soft )?limit\b|\bpayment required\b"
    r"|\bplan and billing details\b|\brecharge your account\b"
    "|余额不足|额度不足|额度已用[尽完]|欠费",
    re.IGNORECASE,
)
# A quota per minute or day comes back by itself: "quota exceeded" beside one of these is a rate limit.
_RATE_PHRASES = re.compile(
    r"\bper[ -]?(?:second|minute|hour|day)\b|\b[rt]p[smhd]\b|\b(?:requests|tokens)/|\btoo many\b|\bconcurren"
    r"|\b(?:retry|try again) (?:in|after) \d",
    re.IGNORECASE,
)
_REQUEST_PHRASES = re.compile(
    r"\bmodels?\b.{0,80}\b(?:not|access|permission|allowed|disabled)\b"
    r"|\b(?:access|permission|allowed|disabled)\b.{0,60}\bmodels?\b"
    r"|\bflagged\b|\bmoderation\b|\bcontent (?:policy|filter)",
    re.IGNORECASE | re.DOTALL,
)
_BUDGET_OPENINGS = re.compile(
    r"your credit balance is too low|you have reached your specified (?:\w+ )?usage limits"
    r"|billing hard limit has been reached|(?:exceededbudget: |budget has been )",
    re.IGNORECASE,
)
_BAN_OPENINGS = re.compile(
    rf"(?:(?:this|your) )?(?:organi[sz]ation|account|api key) has been {_SHUT}\b", re.IGNORECASE
)
# An apostrophe inside a word quotes nothing.
_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)|`[^`]*`|“[^”]*”")


def of_failure(kind: str) -> Finding:
    """What a failed transport (`UpstreamFailure.kind`) or another ending without an answer says."""
    return _FAILURES.get(kind) or Finding(KeyOutcome.NEUTRAL, kind)


def of_answer(status: int, headers: Iterable[tuple[str, str]], body: bytes, now: datetime) -> Finding:
    """What an upstream answer says about its key.

    `body` is the (start of the) body of an error answer, uncompressed; that of a 2xx is not looked at.
    """
    named = {name.lower(): value.strip() for name, value in headers}
    is_page = "html" in named.get("content-type", "").lower()
    if status < 200 or 300 <= status < 400:
        return _REDIRECT
    if status < 300:
        return _WEB_PAGE if is_page else _OK
    if status >= 500:
        return _SERVER_ERROR
    if status not in (400, 401, 402, 403, 429):
        return _CLIENT_FAULT
    codes, words = _read(body, is_page)
    if (finding := _by_code(status, codes)) is not None:
        return finding
    if status == 402:
        return _PAYMENT_REQUIRED
    if status == 400:
        return _by_opening(words)
    if status == 429:
        is_spent = _BUDGET_PHRASES.search(words) and not _RATE_PHRASES.search(words)
        return _BUDGET_WORDS if is_spent else _rate_limited(named, now)
    if is_page or _is_markup(body):
        return _WEB_PAGE
    return _refused(status, words)


def _by_code(status: int, codes: frozenset[str]) -> Finding | None:
    if codes & _BUDGET_CODES:
        return _BUDGET_CODE
    if status != 429 and any(_BAN_CODES.fullmatch(code) for code in codes):
        return _BAN_CODE
    return _REFUSED_REQUEST if status == 403 and codes & _REQUEST_CODES else None


def _by_opening(words: str) -> Finding:
    if _BUDGET_OPENINGS.match(words):
        return _BUDGET_WORDS
    return _BAN_WORDS if _BAN_OPENINGS.match(words) else _CLIENT_FAULT


def _refused(status: int, words: str) -> Finding:
    # The budget first: an account "suspended due to insufficient balance" comes back with the money.
    if _BUDGET_PHRASES.search(words) and not _RATE_PHRASES.search(words):
        return _BUDGET_WORDS
    if _BAN_PHRASES.search(words):
        return _BAN_WORDS
    if status == 401:
        return _UNAUTHORIZED
    # A client that asks twice for what no key may have must not cost the key.
    return _REFUSED_REQUEST if _REQUEST_PHRASES.search(words) else _FORBIDDEN


def _rate_limited(headers: Mapping[str, str], now: datetime) -> Finding:
    wanted = _retry_after(headers, now)
    cooldown = DEFAULT_COOLDOWN_S if wanted is None else min(max(wanted, _MIN_COOLDOWN_S), MAX_COOLDOWN_S)
    return Finding(KeyOutcome.RATE_LIMITED, "rate_limited", cooldown)


def _retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    milliseconds = headers.get("retry-after-ms", "")
    if re.fullmatch(r"\d{1,12}", milliseconds, re.ASCII):
        return int(milliseconds) / 1000
    value = headers.get("retry-after", "")
    if re.fullmatch(r"\d{1,12}(?:\.\d{1,9})?", value, re.ASCII):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()


def _read(body: bytes, is_page: bool) -> tuple[frozenset[str], str]:
    """The codes and the readable words of an error body, both bounded.

    JSON that does not parse is not searched: it may be anything, with the client's text in it.
    """
    start = body[:_MAX_BODY]
    if is_page or _is_markup(start):
        return frozenset(), ""
    try:
        parsed = loads_lenient(start)
    except ValueError:
        text = start[: 4 * _MAX_WORDS].decode("utf-8", "replace").strip()
        return frozenset(), "" if text[:1] in ("{", "[") else _unquoted(text)
    if isinstance(parsed, list) and parsed:  # Google wraps its errors in one
        parsed = parsed[0]
    holders = _holders(parsed)
    codes = [holder.get(name) for holder in holders for name in ("type", "code", "errorType", "error_code")]
    texts = [holder.get(name) for holder in holders for name in ("message", "msg", "error", "detail")]
    words = next((text for text in (*texts, parsed) if isinstance(text, str) and text), "")
    return frozenset(_normal(code) for code in codes if isinstance(code, str)), _unquoted(words)


def _holders(parsed: Any) -> list[dict[str, Any]]:
    """The objects in which vendors put codes and messages, the innermost that is common first."""
    if not isinstance(parsed, dict):
        return []
    error = parsed.get("error")
    inner = [error, error.get("details")] if isinstance(error, dict) else []
    return [holder for holder in (*inner, parsed, parsed.get("detail")) if isinstance(holder, dict)]


def _is_markup(body: bytes) -> bool:
    return body[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _normal(code: str) -> str:
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code[:_MAX_CODE])
    return re.sub(r"[ .-]", "_", snake).lower()


def _unquoted(text: str) -> str:
    return _QUOTED.sub(" ", " ".join(text[:_MAX_WORDS].split()))
