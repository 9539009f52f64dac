"""Configuration: the only reader of the process environment.

Every variable of the table in docs/configuration.md is one field here. `NAME_FILE` reads a secret from a
file. An invalid value raises `SettingsError` with one line that names the variable and what it takes.
"""

import os
import re
import secrets
import stat
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from app.accounts.client_address import Network, parse_networks
from app.common.errors import SettingsError
from app.common.secret_strength import SECRET_MIN_CHARS, weakness
from app.exchange.client_shares import ShareLimits
from app.server.client_limits import ClientLimits
from app.shipped import shipped_file

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")

_ALERT_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[!-~]{1,2000}")

ROOT = Path(__file__).resolve().parent.parent

_TAKES_SECRET = f"takes at least {SECRET_MIN_CHARS} characters (make one with: openssl rand -hex 32)"


_MAX_HOSTS = 10
_MAX_ALERT_URLS = 20
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SYSTEM = frozenset((
    "bin", "boot", "dev", "etc", "home", "lib", "lib64", "media", "mnt", "opt", "proc", "root", "run", "sbin",
    "srv", "sys", "tmp", "usr", "var",
))  # fmt: skip


def _known_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("takes an IANA time zone name, such as UTC or Asia/Ho_Chi_Minh") from None
    return name


def _http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its port is none, or its IPv6 address
        is_usable = False
    if not is_usable or not url.isprintable() or set(url) & set(" ?#"):
        raise ValueError(
            "takes an http:// or https:// URL, such as https://api.example.com or http://HOST:PORT"
        )
    return url.rstrip("/")


def _storage_uri(uri: str | None) -> str | None:
    if uri is not None and "://" not in uri:
        raise ValueError("takes the URI of a storage of the limits library, such as redis://HOST:6379")
    return uri


def _origin(text: str) -> str:
    if text != "*" and not _ORIGIN.fullmatch(text):
        raise ValueError("takes origins such as https://chat.example.com, separated by commas, or *")
    return text


def _networks(value: Any) -> Any:
    return parse_networks(value) if isinstance(value, str) else value


def _unguessable(secret: SecretStr) -> SecretStr:
    problem = weakness(secret.get_secret_value(), SECRET_MIN_CHARS)
    if problem is not None:
        raise ValueError(f"{_TAKES_SECRET}, {problem}")
    return secret


def _unless_off(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() in ("off", "0") else value


def _directory(path: Path) -> Path:
    return path.expanduser().absolute()


def _split_hosts(value: Any) -> Any:
    return tuple(url.strip() for url in value.split(",") if url.strip()) if isinstance(value, str) else value


def _few_hosts(urls: tuple[str, ...]) -> tuple[str, ...]:
    if not 0 < len(urls) <= _MAX_HOSTS:
        raise ValueError(f"takes 1 to {_MAX_HOSTS} URLs, separated by commas")
    return tuple(dict.fromkeys(urls))


_Unguessable = Annotated[SecretStr, AfterValidator(_unguessable)]


class Settings(BaseModel):
    """All of the configuration, validated once and never changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ohmygpt_base_url: Annotated[
        tuple[Annotated[str, AfterValidator(_http_url)], ...],
        BeforeValidator(_split_hosts),
        AfterValidator(_few_hosts),
    ] = ("https://apic1.ohmycdn.com",)
    ohmygpt_api_keys: tuple[SecretStr, ...] = ()
    ohmygpt_management_key: SecretStr | None = None
    ohmygpt_units_per_usd: Decimal | None = Field(None, gt=0, le=10**12)
    upstream_cost_drift: Decimal = Field(Decimal("0.05"), gt=0, lt=1)
    mongodb_uri: SecretStr | None = None
    mongodb_db_name: str = Field("fproxy", pattern=r"^[A-Za-z0-9_-]{1,38}$")
    mongod_bin: str | None = None
    data_dir: Annotated[Path, AfterValidator(_directory)] = Field(Path("./var"), validate_default=True)
    host: str = "127.0.0.1"
    port: int = Field(8005, ge=0, le=65535)
    web_concurrency: int = Field(1, ge=1, le=256)
    alert_urls: tuple[SecretStr, ...] = ()
    alert_least_usable: int = Field(1, ge=0, le=1000)
    alert_least_balance: Decimal = Field(Decimal(0), ge=0, le=10**12)
    admin_token: _Unguessable | None = None
    secret_key: _Unguessable | None = None
    proxy_api_key: _Unguessable | None = None
    models_file: Path = shipped_file("models.toml")
    log_batch_size: int = Field(500, ge=1, le=10_000)
    log_flush_ms: int = Field(200, ge=1, le=60_000)
    log_queue_size: int = Field(20_000, ge=1, le=5_000_000)
    journal_sync: Literal["group", "always", "off"] = "group"
    journal_max_mb: int = Field(4096, ge=1)
    journal_full: Literal["pass", "refuse"] = "pass"
    refusal_records_rpm: int = Field(60, ge=0, le=1_000_000)
    record_error_messages: Literal["on", "off"] = "on"
    attribution: Literal["full", "hashed", "off"] = "full"
    background_poll_s: float = Field(30, ge=0.2, le=600)
    log_retention_days: int = Field(30, ge=0, le=36_500)
    upstream_connect_timeout_s: float = Field(5.0, gt=0, le=600)
    upstream_read_timeout_s: float = Field(300.0, gt=0, le=3600)
    upstream_max_attempts: int = Field(3, ge=1, le=20)
    affinity: Literal["conversation", "off"] = "conversation"
    key_sync_ms: int = Field(1000, ge=10, le=2000)
    key_probe_after_s: float = Field(86_400.0, ge=7200, le=2_592_000)
    upstream_auth: Literal["bearer", "x-api-key", "both"] = "bearer"
    upstream_reasoning: Literal["auto", "outside"] = "auto"
    unpriced_models: Literal["off", "unmetered"] = "off"
    default_anthropic_version: str = "2023-06-01"
    sse_keepalive_s: Annotated[float | None, BeforeValidator(_unless_off)] = Field(None, ge=0.1, le=3600)
    on_client_abort: Literal["drain", "cancel"] = "drain"
    abort_drain_s: float = Field(20.0, ge=0, le=3600)
    max_body_mb: int = Field(32, ge=1, le=1024)
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = ()
    max_bodies_mb: int = Field(512, ge=1, le=1_048_576)
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    rate_limit_rpm: int = Field(2000, ge=0)
    # It may hold a password: `repr=False` keeps it out of messages as well.
    rate_limit_storage_uri: Annotated[str | None, AfterValidator(_storage_uri)] = Field(None, repr=False)
    stats_timezone: Annotated[str, AfterValidator(_known_timezone)] = "UTC"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] | None = None
    upstream_proxy_pool: Literal["on", "off"] = "on"
    upstream_proxy_fallback_direct: Literal["on", "off"] = "on"
    graceful_timeout_s: int = Field(120, ge=1, le=3600)
    worker_connections: int = Field(4000, ge=20, le=100_000)
    client_keepalive_s: float = Field(75.0, ge=1, le=3600)
    client_head_timeout_s: float = Field(20.0, gt=0, le=600)
    client_body_timeout_s: float = Field(30.0, gt=0, le=600)
    client_write_timeout_s: float = Field(60.0, gt=0, le=3600)

    @field_validator("alert_urls", mode="before")
    @classmethod
    def _split_alert_urls(cls, value: Any) -> Any:
        # A comma may be part of such a URL; white space may not.
        urls = tuple(dict.fromkeys(value.split())) if isinstance(value, str) else value
        if len(urls) > _MAX_ALERT_URLS or not all(map(_ALERT_URL.fullmatch, map(str, urls))):
            raise ValueError(
                f"takes up to {_MAX_ALERT_URLS} URLs of apprise, such as mailto://… or json://…, "
                "separated by white space"
            )
        return urls

    @field_validator("ohmygpt_api_keys", "cors_origins", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        # A file of keys may well hold one on each line, and one of them twice.
        return tuple(dict.fromkeys(value.replace(",", " ").split())) if isinstance(value, str) else value

    @field_validator(
        "journal_sync", "journal_full", "upstream_auth", "on_client_abort", "log_level", "log_format",
        "affinity", "upstream_proxy_pool", "upstream_proxy_fallback_direct", "upstream_reasoning",
        "record_error_messages", "unpriced_models", "attribution", mode="before",
    )  # fmt: skip
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("secret_key", "proxy_api_key")
    @classmethod
    def _each_secret_for_one_purpose(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        for name in ("admin_token", "secret_key"):
            if secret is not None and name != info.field_name and info.data.get(name) == secret:
                raise ValueError(f"takes another secret than {name.upper()}")
        return secret

    @property
    def max_body_bytes(self) -> int:
        """Largest request body accepted, in bytes (after decoding a compressed one)."""
        return self.max_body_mb * 1024 * 1024

    @property
    def share_limits(self) -> ShareLimits:
        """What all clients of a worker, one user and one client key may hold of it at a time.

        A user has half of bytes and places, a key a quarter of the bytes; both have at least two bodies'.
        """
        two_bodies = 2 * self.max_body_bytes
        most = max(self.max_bodies_mb * 1024 * 1024, two_bodies)
        of_user, of_key = max(most // 2, two_bodies), max(most // 4, two_bodies)
        return ShareLimits(most, of_user, of_key, self.worker_connections // 2)

    @property
    def client_limits(self) -> ClientLimits:
        """How long clients are waited for."""
        return ClientLimits(
            idle_s=self.client_keepalive_s,
            head_s=self.client_head_timeout_s,
            body_s=self.client_body_timeout_s,
            write_s=self.client_write_timeout_s,
        )

    @property
    def tz(self) -> ZoneInfo:
        """Where days start in statistics, and the zone of every date that names none."""
        return ZoneInfo(self.stats_timezone)

    @property
    def log_retention_s(self) -> int:
        """How long a record stays in `request_logs`, in seconds; 0 keeps it for ever."""
        return self.log_retention_days * 86_400

    @classmethod
    def from_env(cls, environ: "os._Environ[str] | dict[str, str] | None" = None) -> Self:
        """Read the settings from the environment; raises `SettingsError` on the first invalid value."""
        source = dict(os.environ if environ is None else environ)  # noqa: TID251
        values: dict[str, Any] = {}
        for field in cls.model_fields:
            value = _lookup(source, field.upper())
            if value is not None:
                values[field] = value
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(_one_line(error, source)) from None


def check_data_dir(path: Path) -> bool:
    """Return whether DATA_DIR is there and open to others, though this user can close it; changes nothing.

    Raises `SettingsError` where it cannot, or must not, be closed: it belongs to somebody else, or to all.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False  # whoever makes it says what is in the way
    except OSError as error:
        raise SettingsError(f"DATA_DIR: cannot look at {path}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise SettingsError(f"DATA_DIR: takes a directory, {path} is none")
    if not status.st_mode & _OTHERS:
        return False
    user = os.geteuid()
    if status.st_uid == user and not status.st_mode & stat.S_ISVTX and not _is_systems(path.resolve()):
        return True
    whose = "others use it, too" if status.st_uid == user else f"it belongs to user id {status.st_uid}"
    raise SettingsError(
        f"DATA_DIR: {path} is open to other users, and {whose}: set it to a directory of its own, such as "
        f"{path / 'weir'}, which Weir makes with access for user id {user} only"
    )


def close_data_dir(path: Path) -> bool:
    """Make DATA_DIR, or close it and the files in it, so that its owner alone has access (0700, 0600).

    Whether it was open to others until now. Raises `SettingsError` like `check_data_dir`, and OSError.
    """
    was_open = check_data_dir(path)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if was_open:
        path.chmod(0o700)
        for entry in path.iterdir():
            with suppress(FileNotFoundError):  # another process of this directory has removed it
                status = entry.lstat()
                if status.st_uid == os.geteuid() and not stat.S_ISLNK(status.st_mode):
                    entry.chmod(status.st_mode & ~_OTHERS)
    return was_open


def _is_systems(path: Path) -> bool:
    """Return whether a directory is one that every Unix has, and so for more than Weir."""
    parts = path.parts[1:]
    return not parts or (parts[0] in _SYSTEM and len(parts) <= 1 + (parts[0] in ("usr", "var")))


def drop_empty_variables() -> None:
    """Take variables that are set to nothing out of the environment: other programs do not ignore them."""
    for field in Settings.model_fields:
        if not os.environ.get(field.upper(), "x").strip():  # noqa: TID251
            del os.environ[field.upper()]  # noqa: TID251


def _lookup(source: dict[str, str], name: str) -> str | None:
    """Return the value of NAME, or the content of the file NAME_FILE names; empty counts as unset."""
    path = source.get(f"{name}_FILE")
    if path:
        if source.get(name):
            raise SettingsError(f"{name} and {name}_FILE are both set: leave one of them out")
        try:
            return Path(path).read_text(encoding="utf-8").strip() or None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{name}_FILE: cannot read {path}: {error}") from None
    value = source.get(name)
    return value.strip() or None if value is not None else None


def _one_line(error: ValidationError, source: dict[str, str]) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]).upper()
    if source.get(f"{name}_FILE"):
        name = f"{name}_FILE"
    reason = first["msg"].removeprefix("Value error, ")
    field = Settings.model_fields.get(str(first["loc"][0]))
    secret = field is not None and ("Secret" in str(field.annotation) or not field.repr)
    shown = "" if secret else f" (got {str(first['input'])[:80]!r})"
    return f"{name}: {reason}{shown}"


def existing_secret(data_dir: Path, name: str, configured: SecretStr | None) -> str | None:
    """Return the configured secret, else the one in `DATA_DIR/<name>`, else None; makes nothing."""
    if configured is not None:
        return configured.get_secret_value()
    path = data_dir / name
    return _stored_secret(path) if path.exists() else None


def generated_secret(data_dir: Path, name: str, configured: SecretStr | None) -> str:
    """Return the configured secret, else the one generated once into `DATA_DIR/<name>` (0600)."""
    found = existing_secret(data_dir, name, configured)
    if found is not None:
        return found
    close_data_dir(data_dir)
    _create_whole(data_dir / name, secrets.token_urlsafe(32) + "\n")
    return _stored_secret(data_dir / name)


def existing_secret_key(settings: Settings) -> str:
    """Return the SECRET_KEY there is; raises `SettingsError` where there is none, and makes none."""
    found = existing_secret(settings.data_dir, "secret-key", settings.secret_key)
    if found is None:
        raise SettingsError(
            f"there is no SECRET_KEY: it is not set, and {settings.data_dir / 'secret-key'} does not exist "
            "(set SECRET_KEY or SECRET_KEY_FILE as the service has it, or DATA_DIR to its directory)"
        )
    return found


def check_stored_secrets(settings: Settings) -> None:
    """Look at the generated secrets that are in use and exist already; raises `SettingsError`."""
    for name, configured in (("secret-key", settings.secret_key), ("admin-token", settings.admin_token)):
        if configured is None:
            existing_secret(settings.data_dir, name, None)


def _stored_secret(path: Path) -> str:
    variable = path.name.upper().replace("-", "_")
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise SettingsError(f"{variable}: cannot read {path}: {reason}") from None
    if not value:
        raise SettingsError(
            f"{variable}: {path} is empty: delete it and start again to have it generated anew"
        )
    problem = weakness(value, SECRET_MIN_CHARS)
    if problem is not None:
        raise SettingsError(f"{variable}: {_TAKES_SECRET}; see {path}: {problem}")
    return value


def _create_whole(path: Path, text: str) -> None:
    """Create the file with its content in one step: of several processes one wins, none sees half of it."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first: its secret counts
    finally:
        draft.unlink()
