"""What becomes of an attempt: for the upstream key, for the client, and for the attempt loop. One table.

    answer                     the key              the client hears     next   because
    2xx                        OK                   the answer           -
    2xx that tells an error    by its codes         the answer           -      see `of_told_error`
    2xx with a web page        FAILED               502                  none   something in front answered
    1xx, 3xx                   NEUTRAL              502                  none   a wrong base URL
    400 by code, or opening    EXHAUSTED, BANNED,   502 (operator)       key    vendors refuse accounts so,
                               SUSPECT                                          too
    401                        SUSPECT, BANNED,     502 (operator)       key    the client's own key was
                               EXHAUSTED                                        checked here; a capped key's
                                                                                is CAPPED
    402                        EXHAUSTED, BANNED    502 (operator)       key    a bare one proves little
    402 "can only afford"      CLIENT_FAULT         502 (operator)       key    smaller requests are paid
    403 content, model, region CLIENT_FAULT         403 and its reason   none   every key would hear it
    403 key, account, bill     as 401               502 (operator)       key
    403 that says neither      SUSPECT, in doubt    403 and its reason   key    counts if another key serves
    401, 403 with a web page   FAILED               502                  key    a firewall knows no keys
    429 bill                   EXHAUSTED            502 (operator)       key
    429 size of the request    CLIENT_FAULT         429, do not retry    none   every key would hear it
    429 key, account           RATE_LIMITED         429                  key
    429 anything else          MODEL_LIMITED        429                  key    resellers pass on the limits
                                                                                of providers
    407                        NEUTRAL              502                  none   the operator's own proxy
    other 4xx                  CLIENT_FAULT         the same, its reason none   the request itself
    504, 524                   FAILED               504                  none   it may be running, charged
    529                        FAILED               529                  key
    other 5xx                  FAILED               502                  key    outages are a key's, or pass
    5xx by code of the model   CLIENT_FAULT         502                  key    no channel for a model is no
    or the content                                                              outage of the key
    transport failures         FAILED               502, 504             see `TRANSPORT_FAILURES`
    a failure of the host      NEUTRAL              as above             key    the same one, on another host
    the client left, our error   NEUTRAL

What is left to say when no further key is tried is the last answer's.

Only bodies of error answers are looked at, so nothing a model says counts. An error message may still repeat
what the client wrote. Hence codes come before words; words in quotes are not read; words and codes count
only if the client did not send them (`app.wires.client_words`); a 400, which exists to repeat the client's
mistakes, is read only if it opens with a phrase known from the vendors. Who meets it matters as well:
`app.keys.key_states` wants to hear of most things from more than one client.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from itertools import islice

from app.records.records import Outcome
from app.wires import errors
from app.wires.client_words import NO_WORDS, ClientWords
from app.wires.errors import ErrorKind
from app.wires.formats.failures import CHOICES_MISSING
from app.wires.upstream_errors import NO_ERROR, UpstreamError, retry_after

MAX_COOLDOWN_S = 3600.0
_MIN_COOLDOWN_S = 1.0
_MAX_WORDS = 2000
# Asking what the client sent means to search its request.
_MOST_ASKED = 8


class KeyOutcome(Enum):
    """What an attempt says about its key."""

    OK = "ok"
    CLIENT_FAULT = "client_fault"  # the request was wrong; the upstream is alive
    MODEL_LIMITED = "model_limited"  # too many requests for this model
    RATE_LIMITED = "rate_limited"  # too many with this key
    EXHAUSTED = "exhausted"
    SUSPECT = "suspect"  # refused, but for reasons that may pass
    BANNED = "banned"
    FAILED = "failed"  # an outage, which may be this key's alone
    NEUTRAL = "neutral"  # nothing at all


@dataclass(frozen=True, slots=True)
class Finding:
    """An outcome and why. `reason` is of a closed set and holds no upstream text, so it may be shown.

    `cooldown_s` (seconds) is there for limits only, and only if the upstream told. `is_proof` is False where
    the upstream gave no reason, or the answer has only begun. `is_keys_own` says that another key has served
    the very same request.
    """

    outcome: KeyOutcome
    reason: str
    cooldown_s: float | None = None
    is_proof: bool = True
    is_keys_own: bool = False

    def keys_own(self) -> "Finding":
        """Return the same, now that another key has served the request."""
        return replace(self, is_keys_own=True)


class Verdict(Enum):
    """The next step after an upstream answer's status is known."""

    RELAY = "relay"  # the answer is the client's
    NEXT_KEY = "next_key"  # another key may well serve it
    FAIL = "fail"  # no key can: the client must hear it


@dataclass(frozen=True, slots=True)
class Judgement:
    """A row of the table.

    `passes` says that the client may read the upstream's reason. A finding `in_doubt` counts only once
    another key has served the same request: if all refuse it, the request is the suspect.
    """

    finding: Finding
    verdict: Verdict
    kind: ErrorKind
    passes: bool = False
    in_doubt: bool = False

    @property
    def tells_wait(self) -> bool:
        """Whether the client hears how long the upstream wants to be left alone."""
        return self.kind is errors.RATE_LIMITED or self.finding is _SERVER_ERROR


PASSED_THROUGH: Mapping[int, ErrorKind] = {
    400: ErrorKind(400, "invalid_request_error", "invalid_request_error", "invalid_request_error"),
    403: ErrorKind(403, "permission_error", "permission_denied", "permission_error"),
    404: ErrorKind(404, "not_found_error", "not_found", "not_found_error"),
    405: errors.WRONG_METHOD,
    408: errors.REQUEST_TIMEOUT,
    409: ErrorKind(409, "conflict_error", "conflict", "conflict_error"),
    410: ErrorKind(410, "not_found_error", "gone", "not_found_error"),
    413: ErrorKind(413, "invalid_request_error", "request_too_large", "request_too_large"),
    415: ErrorKind(415, "invalid_request_error", "unsupported_media_type", "invalid_request_error"),
    422: ErrorKind(422, "invalid_request_error", "unprocessable_entity", "invalid_request_error"),
    424: ErrorKind(424, "invalid_request_error", "failed_dependency", "invalid_request_error"),
    429: errors.RATE_LIMITED,
    451: ErrorKind(451, "permission_error", "unavailable_for_legal_reasons", "permission_error"),
    529: ErrorKind(529, "server_error", "overloaded", "overloaded_error"),
}
"""Upstream statuses that concern the client's own request and therefore reach it (with their message).

So do those of 4xx that are not here, as a refusal without a name of its own; but for `_OPERATORS`.
"""

_OPERATORS = (401, 402, 407)
_GATEWAY_TIMEOUTS = (504, 524)


def client_kind(status: int) -> ErrorKind:
    """Return what the client is told when this upstream status is the last word."""
    if status in (401, 402):
        return errors.UPSTREAM_ACCOUNT
    if status in _GATEWAY_TIMEOUTS:
        return errors.UPSTREAM_TIMEOUT
    if (known := PASSED_THROUGH.get(status)) is not None:
        return known
    if 400 <= status < 500 and status not in _OPERATORS:
        return ErrorKind(status, "invalid_request_error", "request_refused", "invalid_request_error")
    return errors.UPSTREAM_FAILED


TRANSPORT_FAILURES: dict[str, tuple[ErrorKind, Outcome, str, bool]] = {
    # kind: what the client is told, the record's outcome, the message, whether the next key may be tried
    "unreachable": (
        errors.UPSTREAM_UNREACHABLE,
        Outcome.UPSTREAM_UNREACHABLE,
        "The upstream could not be reached.",
        True,
    ),
    # The operator's proxies failed, not the key; another key may have others.
    "no_proxy": (
        errors.UPSTREAM_UNREACHABLE,
        Outcome.UPSTREAM_UNREACHABLE,
        "The upstream could not be reached.",
        True,
    ),
    "reset": (
        errors.UPSTREAM_UNREACHABLE,
        Outcome.UPSTREAM_UNREACHABLE,
        "The upstream closed the connection before it answered.",
        True,
    ),
    # A stall has already used up the client's patience, and the generation may be running and charged.
    "timeout": (
        errors.UPSTREAM_TIMEOUT,
        Outcome.UPSTREAM_TIMEOUT,
        "The upstream did not answer in time.",
        False,
    ),
    "truncated": (
        errors.UPSTREAM_FAILED,
        Outcome.UPSTREAM_TRUNCATED,
        "The upstream's answer was cut before its first byte.",
        True,
    ),
    # The answer was generated and charged: asking again would be charged again, and likely break again.
    "garbled": (
        errors.UPSTREAM_GARBLED,
        Outcome.UPSTREAM_ERROR,
        "The upstream's answer could not be read.",
        False,
    ),
}

BEGUN = Finding(KeyOutcome.OK, "ok", is_proof=False)
"""What the beginning of an answer that is relayed says: it may still turn out to be an error, or be cut."""
SERVED = Finding(KeyOutcome.OK, "ok")
"""What an answer that was relayed to its good end says."""

_CLIENT_FAULT = Finding(KeyOutcome.CLIENT_FAULT, "client_fault")
_REFUSED_REQUEST = Finding(KeyOutcome.CLIENT_FAULT, "request_refused")
_TOO_LARGE = Finding(KeyOutcome.CLIENT_FAULT, "request_too_large")
_REDIRECT = Finding(KeyOutcome.NEUTRAL, "redirect")
_PROXY_AUTH = Finding(KeyOutcome.NEUTRAL, "proxy_authentication")
_WEB_PAGE = Finding(KeyOutcome.FAILED, "web_page")
_SERVER_ERROR = Finding(KeyOutcome.FAILED, "server_error")
_GATEWAY_TIMEOUT = Finding(KeyOutcome.FAILED, "gateway_timeout")
_UNAUTHORIZED = Finding(KeyOutcome.SUSPECT, "unauthorized")
_FORBIDDEN = Finding(KeyOutcome.SUSPECT, "forbidden")
CAPPED = Finding(KeyOutcome.EXHAUSTED, "capped")
"""A refusal of a key whose own cap is used up (`app.keys.key_account`)."""
_UNPAID = Finding(KeyOutcome.EXHAUSTED, "payment_required", is_proof=False)
_TOLD_LIMIT = Finding(KeyOutcome.MODEL_LIMITED, KeyOutcome.MODEL_LIMITED.value)
_PAYMENT_REQUIRED = Finding(KeyOutcome.EXHAUSTED, "payment_required")
_BUDGET_CODE = Finding(KeyOutcome.EXHAUSTED, "budget_code")
_BUDGET_WORDS = Finding(KeyOutcome.EXHAUSTED, "budget_words")
_BAN_CODE = Finding(KeyOutcome.BANNED, "ban_code")
_BAN_WORDS = Finding(KeyOutcome.BANNED, "ban_words")

_FAILURES: Mapping[str, Finding] = {
    kind: Finding(KeyOutcome.FAILED, kind)
    for kind in ("unreachable", "reset", "timeout", "truncated", "garbled", "told_error")
}

FAILURE_REASONS = frozenset(_FAILURES) | {
    _WEB_PAGE.reason,
    _SERVER_ERROR.reason,
    _GATEWAY_TIMEOUT.reason,
}
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
_KEY_CODES = frozenset({"invalid_api_key", "api_key_invalid", "authentication_error"})
_REQUEST_CODES = frozenset(
    {
        "model_not_found",
        "model_not_allowed",
        "model_not_available",
        "model_not_supported",
        "unsupported_model",
        "content_filter",
        "content_policy_violation",
        "content_policy",
        "responsible_ai_policy_violation",
        "moderation_blocked",
        "moderation",
        "safety",
        "prohibited_content",
        "image_generation_user_error",
        "data_inspection_failed",
        "sensitive_words_detected",
        "unsupported_country_region_territory",
        "unsupported_country",
        "region_not_supported",
        "user_location_not_supported",
    }
)
# Members that only refusals of a request's content have.
_REQUEST_NAMES = frozenset(
    {
        "content_filter_result",
        "content_filter_results",
        "flagged_input",
        "flagged_categories",
        "moderation",
    }
)
_LIMIT_CODES = frozenset(
    {"rate_limit_error", "rate_limit_exceeded", "too_many_requests", "requests", "tokens", "429"}
)
_TOKEN_CODES = frozenset({"tokens", "input_tokens", "output_tokens"})

_GONE = r"(?:banned|disabled|deactivated|revoked|suspended|terminated)"
# These are also said of requests and of what a key may do, so they take a stricter phrase.
_SHUT = r"(?:banned|disabled|deactivated|revoked|suspended|terminated|blocked|restricted)"
_OWNER = r"(?:account|api[ _-]?key|key|token|user|consumer|organi[sz]ation|org|workspace|project)"
_OWNERS = frozenset(
    {
        "account",
        "api",
        "key",
        "token",
        "user",
        "consumer",
        "organization",
        "organisation",
        "org",
        "workspace",
        "project",
        "令牌",
        "密钥",
        "账号",
        "账户",
        "用户",
    }
)
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
    r"|\bflagged\b|\bmoderation\b|\bcontent\b.{0,40}\b(?:polic(?:y|ies)|filter|guidelines?|safety|violat)"
    r"|\b(?:usage|safety|content|acceptable use) (?:polic(?:y|ies)|guidelines?)\b"
    r"|\b(?:inappropriate|unsafe|harmful|sensitive|prohibited) (?:content|input|words?|prompt)"
    r"|\b(?:country|countries|region|territory|location|jurisdiction)\b"
    "|敏感|违规|不支持的地区",
    re.IGNORECASE | re.DOTALL,
)
_KEY_PHRASES = re.compile(
    r"\b(?:account|(?:api|access|auth|bearer)[ _-](?:key|token)|key|consumer|organi[sz]ation|org|workspace"
    r"|project|team|credit|licen[cs]e|quota)s?\b|\bfirewall\b"
    r"|\bcredentials?\b|\bauthenticat|\bauthori[sz]|\bunauthori[sz]|\bsubscription\b|\bbill"
    r"|\bbalance\b|\bpayment\b|\bplan\b|\bIP\b|令牌|密钥|账号|账户",
    re.IGNORECASE,
)
_KEY_OPENINGS = re.compile(
    r"(?:incorrect|invalid|expired) (?:x-)?api[ -]?key\b"
    r"|(?:(?:the|this|your) )?api key (?:(?:is|was|has|provided) ){0,2}"
    r"(?:not valid|invalid|incorrect|expired)\b",
    re.IGNORECASE,
)
_BUDGET_OPENINGS = re.compile(
    r"your credit balance is too low|you have reached your specified (?:\w+ )?usage limits"
    r"|billing hard limit has been reached|(?:exceededbudget: |budget has been )",
    re.IGNORECASE,
)
_BAN_OPENINGS = re.compile(
    rf"(?:(?:this|your) )?(?:organi[sz]ation|account|api key) has been {_SHUT}\b", re.IGNORECASE
)
_OPENINGS = (
    (_KEY_OPENINGS, _UNAUTHORIZED),
    (_BUDGET_OPENINGS, _BUDGET_WORDS),
    (_BAN_OPENINGS, _BAN_WORDS),
)
_SMALLER_IS_PAID = re.compile(r"\bcan only afford\b|\bfewer (?:max_)?(?:output )?tokens\b", re.IGNORECASE)
_LARGE_PHRASES = re.compile(
    r"\b(?:request|prompt|input|message|context)s? (?:is |are |was )?too (?:large|long|big)\b"
    r"|\btoo large for\b|\bmust be reduced\b"
    r"|\breduce (?:the|your) (?:\w+ ){0,3}(?:length|size|tokens|prompt|input)\b"
    r"|\blong context requests?\b|\bmaximum context\b|\bcontext (?:length|window)\b|\bsingle request\b",
    re.IGNORECASE,
)
_LIMIT_AND_WISH = re.compile(r"\blimit:? (\d[\d,]{0,15}).{0,60}?\brequested:? (\d[\d,]{0,15})", re.IGNORECASE)
_TOKEN_PHRASES = re.compile(r"\btokens\b|\bTP[MDS]\b", re.IGNORECASE)
_PROVIDER_PHRASES = re.compile(
    r"\bmodels?\b|\bprovider\b|\bupstream\b|\bengine\b|\bcapacity\b|\boverload", re.IGNORECASE
)
_ACCOUNT_PHRASES = re.compile(
    r"\b(?:your|this|the) (?:(?:current|whole|entire) )?(?:api[ _-]?key|key|token|account|user"
    r"|organi[sz]ation|org|workspace|project|team|plan|subscription|tier|ip(?: address)?)\b"
    r"|\bper (?:api[ _-]?)?(?:key|account|user|organi[sz]ation|org|ip)\b|\byour (?:\S+ ){0,3}rate limits?\b"
    r"|\b(?:account|key|organi[sz]ation|user|team|concurrency)[ -](?:level )?(?:rate )?(?:limit|concurrency)",
    re.IGNORECASE,
)
_SPENT_REQUESTS = re.compile(r"(?:x|anthropic)-?ratelimit-(?:remaining(?:-requests)?|requests-remaining)")
_CLAUSE_ENDS = re.compile(r"[.:;!?,\n](?:\s|\Z)|[。：；！？，]")
# An apostrophe inside a word quotes nothing.
_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)|`[^`]*`|“[^”]*”")


@dataclass(frozen=True, slots=True)
class RefusedAnswer:
    """An upstream answer that is not one to relay: everything the table looks at.

    `models` are the names that the request's model goes by.
    """

    status: int
    headers: Iterable[tuple[str, str]] = ()
    error: UpstreamError = NO_ERROR
    models: tuple[str, ...] = ()
    client: ClientWords = NO_WORDS

    @property
    def words(self) -> str:
        """The readable message without what it quotes."""
        return _QUOTED.sub(" ", self.error.message[:_MAX_WORDS])

    def says(self, pattern: re.Pattern[str], *, but_for: frozenset[str] = frozenset()) -> bool:
        """Return whether the upstream says such a phrase, in words that are not the client's."""
        found = islice(pattern.finditer(self.words), _MOST_ASKED)
        return any(not self.client.repeats(phrase[0], but_for=but_for) for phrase in found)

    def may_say(self, pattern: re.Pattern[str]) -> bool:
        """Return whether there is such a phrase, but for clauses the client sent word for word."""
        clauses = [clause for clause in _CLAUSE_ENDS.split(self.words) if pattern.search(clause)]
        is_theirs = len(clauses) <= _MOST_ASKED and all(map(self.client.repeats_all, clauses))
        return not is_theirs

    def has(self, codes: frozenset[str]) -> bool:
        """Return whether one of the codes is there, deep inside only if the client did not send it."""
        if self.error.codes & codes:
            return True
        return any(not self.client.repeats(code) for code in self.error.nested_codes & codes)


def of_failure(kind: str) -> Finding:
    """Find what a failed transport (`UpstreamFailure.kind`) or another ending without an answer says."""
    return _FAILURES.get(kind) or Finding(KeyOutcome.NEUTRAL, kind)


def of_told_error(codes: frozenset[str], *, is_requests_fault: bool) -> Finding:
    """Find what an error says that is told inside an answer of status 200.

    It is judged by its codes alone: they are as good as a status, while its words may be the client's.
    """
    if codes & _KEY_CODES or "401" in codes:
        return _UNAUTHORIZED
    if codes & _BUDGET_CODES:
        return _BUDGET_CODE
    if "402" in codes:
        return _UNPAID
    if any(_BAN_CODES.fullmatch(code) for code in codes):
        return _BAN_CODE
    if is_requests_fault or codes & _REQUEST_CODES or "403" in codes:
        return _REFUSED_REQUEST
    if CHOICES_MISSING in codes:  # it answered, and many models give one answer whatever `n` says
        return _CLIENT_FAULT
    return _TOLD_LIMIT if codes & _LIMIT_CODES else of_failure("told_error")


def is_relayed(status: int) -> bool:
    """Return whether an answer of this status is the client's, unless it is a web page."""
    return 200 <= status < 300


def judge(answer: RefusedAnswer, now: datetime) -> Judgement:
    """Judge an answer that is not relayed: find its row of the table."""
    status, error = answer.status, answer.error
    if status < 200 or 300 <= status < 400:
        return Judgement(_REDIRECT, Verdict.FAIL, errors.UPSTREAM_FAILED)
    if status < 300:
        return Judgement(_WEB_PAGE, Verdict.FAIL, errors.UPSTREAM_FAILED)
    if status in _GATEWAY_TIMEOUTS:
        return Judgement(_GATEWAY_TIMEOUT, Verdict.FAIL, errors.UPSTREAM_TIMEOUT)
    if status >= 500:
        kind = client_kind(status)
        # Resellers have no channel for a model, or relay a refusal, under any status.
        finding = _REFUSED_REQUEST if error.codes & _REQUEST_CODES else _SERVER_ERROR
        return Judgement(finding, Verdict.NEXT_KEY, kind, passes=kind.status == status)
    if status == 407:
        return Judgement(_PROXY_AUTH, Verdict.FAIL, errors.UPSTREAM_FAILED)
    if error.is_page and status in (401, 403):
        return Judgement(_WEB_PAGE, Verdict.NEXT_KEY, errors.UPSTREAM_FAILED)
    if status in _JUDGES and (row := _account(answer) or _JUDGES[status](answer, now)) is not None:
        return row
    return Judgement(_CLIENT_FAULT, Verdict.FAIL, client_kind(status), passes=True)


def _operators(finding: Finding) -> Judgement:
    # Whatever the status: the client can do nothing about it, and need not know.
    return Judgement(finding, Verdict.NEXT_KEY, errors.UPSTREAM_ACCOUNT)


def _account(answer: RefusedAnswer) -> Judgement | None:
    """Judge by what a code says about the account or the bill; None where no code does."""
    if answer.status == 402 and _SMALLER_IS_PAID.search(answer.words):
        return _operators(_CLIENT_FAULT)
    codes = answer.error.codes
    if found := codes & _BUDGET_CODES:
        return _operators(_unless_repeated(answer, found, _BUDGET_CODE))
    found = frozenset(code for code in codes if _BAN_CODES.fullmatch(code))
    if answer.status != 429 and found:
        return _operators(_unless_repeated(answer, found, _BAN_CODE))
    return None


def _unless_repeated(answer: RefusedAnswer, codes: Iterable[str], finding: Finding) -> Finding:
    """Return the finding if one of the codes is not the client's own; what may be theirs counts for nothing.

    The error is not shown to them either: codes are where vendors put them, and hardly ever repeat anything.
    """
    return finding if any(not answer.client.repeats_all(code) for code in codes) else _CLIENT_FAULT


def _invalid(answer: RefusedAnswer, now: datetime) -> Judgement | None:
    if answer.has(_KEY_CODES):
        codes = answer.error.codes & _KEY_CODES
        return _operators(_unless_repeated(answer, codes, _UNAUTHORIZED) if codes else _UNAUTHORIZED)
    for pattern, finding in _OPENINGS:
        found = pattern.match(answer.words.lstrip())
        if found is not None and not answer.client.repeats_all(found[0]):
            # Where the client may have had a hand in it, it proves nothing, but is not to be shown either.
            is_theirs = not answer.client.repeats(found[0], but_for=_OWNERS)
            return _operators(finding if is_theirs else _CLIENT_FAULT)
    return None


def _unauthorized(answer: RefusedAnswer, now: datetime) -> Judgement:
    return _operators(_by_words(answer) or _UNAUTHORIZED)


def _unpaid(answer: RefusedAnswer, now: datetime) -> Judgement:
    return _operators(_PAYMENT_REQUIRED if answer.says(_BUDGET_PHRASES) else _UNPAID)


def _forbidden(answer: RefusedAnswer, now: datetime) -> Judgement:
    if answer.has(_REQUEST_CODES) or answer.error.names & _REQUEST_NAMES:
        return _refused_request(answer)
    if (finding := _by_words(answer)) is not None:
        return _operators(finding)
    if _REQUEST_PHRASES.search(answer.words):
        return _refused_request(answer)
    if answer.says(_KEY_PHRASES):
        return _operators(_FORBIDDEN)
    is_told = bool(answer.words.strip()) and not answer.may_say(_KEY_PHRASES)
    kind = client_kind(403) if is_told else errors.UPSTREAM_ACCOUNT
    return Judgement(_FORBIDDEN, Verdict.NEXT_KEY, kind, passes=is_told, in_doubt=True)


def _refused_request(answer: RefusedAnswer) -> Judgement:
    return Judgement(_REFUSED_REQUEST, Verdict.FAIL, client_kind(answer.status), passes=True)


def _by_words(answer: RefusedAnswer) -> Finding | None:
    # The budget first: an account "suspended due to insufficient balance" comes back with the money.
    if answer.says(_BUDGET_PHRASES) and not _RATE_PHRASES.search(answer.words):
        return _BUDGET_WORDS
    return _BAN_WORDS if answer.says(_BAN_PHRASES, but_for=_OWNERS) else None


def _limited(answer: RefusedAnswer, now: datetime) -> Judgement:
    if answer.says(_BUDGET_PHRASES) and not _RATE_PHRASES.search(answer.words):
        return _operators(_BUDGET_WORDS)
    if _is_too_large(answer.words):
        return Judgement(_TOO_LARGE, Verdict.FAIL, errors.REQUEST_OVER_LIMIT, passes=True)
    told = retry_after(answer.headers, now)
    cooldown = None if told is None else min(max(told, _MIN_COOLDOWN_S), MAX_COOLDOWN_S)
    outcome = KeyOutcome.RATE_LIMITED if _is_of_the_key(answer) else KeyOutcome.MODEL_LIMITED
    return Judgement(
        Finding(outcome, outcome.value, cooldown), Verdict.NEXT_KEY, errors.RATE_LIMITED, passes=True
    )


def _is_too_large(words: str) -> bool:
    if _LARGE_PHRASES.search(words):
        return True
    found = _LIMIT_AND_WISH.search(words)
    return found is not None and int(found[2].replace(",", "")) > int(found[1].replace(",", ""))


def _is_of_the_key(answer: RefusedAnswer) -> bool:
    """Return whether a limit is said to be the key's or the account's, not a model's or a provider's.

    A limit of tokens depends on the request, and vendors have one for each model: it is no key's as a whole.
    """
    error, words = answer.error, answer.words
    text = error.message.casefold()
    if "provider_name" in error.names or any(name.casefold() in text for name in answer.models if name):
        return False
    if _PROVIDER_PHRASES.search(words) or _TOKEN_PHRASES.search(words) or error.codes & _TOKEN_CODES:
        return False
    if {"status_code", "error_type"} <= error.names:  # OhMyGPT's own envelope
        return True
    is_spent = any(
        value.strip() == "0" and _SPENT_REQUESTS.fullmatch(name.lower()) for name, value in answer.headers
    )
    return is_spent or answer.says(_ACCOUNT_PHRASES)


_JUDGES = {400: _invalid, 401: _unauthorized, 402: _unpaid, 403: _forbidden, 429: _limited}
