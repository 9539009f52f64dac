"""Configuration: the only reader of the process environment.

Every variable of the table in docs/configuration.md is one field here. `NAME_FILE` reads a secret from a
file. An invalid value raises `SettingsError` with one line that names the variable and what it takes.
"""

import os
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from app.core.client_limits import ClientLimits

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")

ROOT = Path(__file__).resolve().parent.parent


class SettingsError(Exception):
    """A configuration value that cannot be used; the text is one line fit for an operator."""


def _known_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("takes an IANA time zone name, such as UTC or Asia/Ho_Chi_Minh") from None
    return name


def _http_url(url: str) -> str:
    if not url.startswith(("http://", "https://")) or len(url.split("//", 1)[1]) == 0:
        raise ValueError("takes an http:// or https:// URL")
    return url.rstrip("/")


def _storage_uri(uri: str | None) -> str | None:
    if uri is not None and "://" not in uri:
        raise ValueError("takes the URI of a storage of the limits library, such as redis://HOST:6379")
    return uri


def _origin(text: str) -> str:
    if text != "*" and not _ORIGIN.fullmatch(text):
        raise ValueError("takes origins such as https://chat.example.com, separated by commas, or *")
    return text


def _directory(path: Path) -> Path:
    return path.expanduser().absolute()


class Settings(BaseModel):
    """All of the configuration, validated once and never changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ohmygpt_base_url: Annotated[str, AfterValidator(_http_url)] = (
        "https://apic1.ohmycdn.com/api/v1/ai/openai/cc-omg"
    )
    ohmygpt_api_keys: tuple[SecretStr, ...] = ()
    mongodb_uri: SecretStr | None = None
    mongodb_db_name: str = Field("fproxy", pattern=r"^[A-Za-z0-9_-]{1,38}$")
    mongod_bin: str | None = None
    data_dir: Annotated[Path, AfterValidator(_directory)] = Path("./var")
    host: str = "127.0.0.1"
    port: int = Field(8005, ge=0, le=65535)
    web_concurrency: int = Field(1, ge=1, le=256)
    admin_token: SecretStr | None = None
    secret_key: SecretStr | None = None
    proxy_api_key: SecretStr | None = None
    models_file: Path = ROOT / "models.toml"
    log_batch_size: int = Field(500, ge=1, le=10_000)
    log_flush_ms: int = Field(200, ge=1, le=60_000)
    log_queue_size: int = Field(20_000, ge=1, le=5_000_000)
    journal_sync: Literal["group", "always", "off"] = "group"
    journal_max_mb: int = Field(4096, ge=1)
    journal_full: Literal["pass", "refuse"] = "pass"
    log_retention_days: int = Field(30, ge=0, le=36_500)
    upstream_connect_timeout_s: float = Field(5.0, gt=0, le=600)
    upstream_read_timeout_s: float = Field(300.0, gt=0, le=3600)
    upstream_max_attempts: int = Field(3, ge=1, le=20)
    key_sync_ms: int = Field(1000, ge=10, le=2000)
    key_probe_after_s: float = Field(86_400.0, ge=7200, le=2_592_000)
    upstream_auth: Literal["bearer", "x-api-key", "both"] = "bearer"
    default_anthropic_version: str = "2023-06-01"
    on_client_abort: Literal["drain", "cancel"] = "drain"
    abort_drain_s: float = Field(20.0, ge=0, le=3600)
    max_body_mb: int = Field(32, ge=1, le=1024)
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

    @field_validator("ohmygpt_api_keys", "cors_origins", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        # A file of keys may well hold one on each line, and one of them twice.
        return tuple(dict.fromkeys(value.replace(",", " ").split())) if isinstance(value, str) else value

    @field_validator(
        "journal_sync", "journal_full", "upstream_auth", "on_client_abort", "log_level", "log_format",
        "upstream_proxy_pool", "upstream_proxy_fallback_direct", mode="before",
    )  # fmt: skip
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @property
    def max_body_bytes(self) -> int:
        """Largest request body accepted, in bytes (after decoding a compressed one)."""
        return self.max_body_mb * 1024 * 1024

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
            raise SettingsError(_one_line(error)) from None


def drop_empty_variables() -> None:
    """Take variables that are set to nothing out of the environment: other programs do not ignore them."""
    for field in Settings.model_fields:
        if not os.environ.get(field.upper(), "x").strip():  # noqa: TID251
            del os.environ[field.upper()]  # noqa: TID251


def _lookup(source: dict[str, str], name: str) -> str | None:
    """The value of NAME, or the content of the file NAME_FILE names; empty counts as unset."""
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


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]).upper()
    reason = first["msg"].removeprefix("Value error, ")
    field = Settings.model_fields.get(str(first["loc"][0]))
    secret = field is not None and ("Secret" in str(field.annotation) or not field.repr)
    shown = "" if secret else f" (got {str(first['input'])[:80]!r})"
    return f"{name}: {reason}{shown}"


def generated_secret(data_dir: Path, name: str, configured: SecretStr | None) -> str:
    """The configured secret, else the one generated once into `DATA_DIR/<name>` (0600)."""
    if configured is not None:
        return configured.get_secret_value()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / name
    if not path.exists():
        _create_whole(path, secrets.token_urlsafe(32) + "\n")
    value = path.read_text().strip()
    if not value:
        raise SettingsError(f"{path} is empty: delete it and start again to have it generated anew")
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
