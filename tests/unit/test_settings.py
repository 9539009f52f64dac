import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.settings import ROOT, Settings, SettingsError, generated_secret

DEFAULTS = {
    "OHMYGPT_BASE_URL": "https://apic1.ohmycdn.com/api/v1/ai/openai/cc-omg",
    "OHMYGPT_API_KEYS": (),
    "MONGODB_URI": None,
    "MONGODB_DB_NAME": "fproxy",
    "MONGOD_BIN": None,
    "DATA_DIR": Path("./var"),
    "HOST": "127.0.0.1",
    "PORT": 8005,
    "WEB_CONCURRENCY": 1,
    "ADMIN_TOKEN": None,
    "SECRET_KEY": None,
    "PROXY_API_KEY": None,
    "MODELS_FILE": ROOT / "models.toml",
    "LOG_BATCH_SIZE": 500,
    "LOG_FLUSH_MS": 200,
    "LOG_QUEUE_SIZE": 20_000,
    "JOURNAL_SYNC": "group",
    "JOURNAL_MAX_MB": 4096,
    "JOURNAL_FULL": "pass",
    "LOG_RETENTION_DAYS": 30,
    "UPSTREAM_CONNECT_TIMEOUT_S": 5.0,
    "UPSTREAM_READ_TIMEOUT_S": 300.0,
    "UPSTREAM_MAX_ATTEMPTS": 3,
    "KEY_SYNC_MS": 1000,
    "KEY_PROBE_AFTER_S": 86_400.0,
    "UPSTREAM_AUTH": "bearer",
    "DEFAULT_ANTHROPIC_VERSION": "2023-06-01",
    "ON_CLIENT_ABORT": "drain",
    "ABORT_DRAIN_S": 20.0,
    "MAX_BODY_MB": 32,
    "RATE_LIMIT_RPM": 2000,
    "RATE_LIMIT_STORAGE_URI": None,
    "STATS_TIMEZONE": "UTC",
    "LOG_LEVEL": "info",
    "LOG_FORMAT": None,
    "UPSTREAM_PROXY_POOL": "on",
    "UPSTREAM_PROXY_FALLBACK_DIRECT": "on",
    "GRACEFUL_TIMEOUT_S": 120,
    "CORS_ORIGINS": (),
    "WORKER_CONNECTIONS": 4000,
    "CLIENT_KEEPALIVE_S": 75.0,
    "CLIENT_HEAD_TIMEOUT_S": 20.0,
    "CLIENT_BODY_TIMEOUT_S": 30.0,
    "CLIENT_WRITE_TIMEOUT_S": 60.0,
}


def load(**environ: str) -> Settings:
    return Settings.from_env(environ)


def problem(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(**environ)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_variable_that_is_not_set_has_its_default(name: str) -> None:
    assert getattr(load(), name.lower()) == DEFAULTS[name]


def test_the_defaults_above_are_all_there_are() -> None:
    assert {field.upper() for field in Settings.model_fields} == set(DEFAULTS)


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("empty", ["", "   "])
def test_empty_counts_as_unset(name: str, empty: str) -> None:
    assert getattr(load(**{name: empty}), name.lower()) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("OHMYGPT_BASE_URL", "http://127.0.0.1:9/x/", "http://127.0.0.1:9/x"),
        ("MONGODB_DB_NAME", "other-db", "other-db"),
        ("PORT", " 9000 ", 9000),
        ("PORT", "0", 0),
        ("WEB_CONCURRENCY", "8", 8),
        ("DATA_DIR", "/srv/weir", Path("/srv/weir")),
        ("JOURNAL_SYNC", "always", "always"),
        ("JOURNAL_FULL", "refuse", "refuse"),
        ("LOG_RETENTION_DAYS", "0", 0),
        ("UPSTREAM_READ_TIMEOUT_S", "1.5", 1.5),
        ("UPSTREAM_AUTH", "x-api-key", "x-api-key"),
        ("ON_CLIENT_ABORT", "cancel", "cancel"),
        ("ABORT_DRAIN_S", "0", 0.0),
        ("RATE_LIMIT_RPM", "0", 0),
        ("RATE_LIMIT_STORAGE_URI", "memory://", "memory://"),
        ("STATS_TIMEZONE", "Asia/Ho_Chi_Minh", "Asia/Ho_Chi_Minh"),
        ("LOG_LEVEL", "DEBUG", "debug"),
        ("LOG_FORMAT", "json", "json"),
    ],
)
def test_a_variable_is_read(name: str, text: str, value: object) -> None:
    assert getattr(load(**{name: text}), name.lower()) == value


def test_a_relative_data_directory_is_made_absolute() -> None:
    assert load(DATA_DIR="data").data_dir == Path.cwd() / "data"
    assert load(DATA_DIR="~/weir").data_dir == Path.home() / "weir"


@pytest.mark.parametrize("text", ["sk-a,sk-b", " sk-a , sk-b ,,", "sk-a\nsk-b\n", "sk-a,sk-b,sk-a"])
def test_upstream_keys_are_split(text: str) -> None:
    keys = load(OHMYGPT_API_KEYS=text).ohmygpt_api_keys
    assert [key.get_secret_value() for key in keys] == ["sk-a", "sk-b"]


def test_sizes_and_durations_are_converted() -> None:
    settings = load(MAX_BODY_MB="2", LOG_RETENTION_DAYS="3")
    assert settings.max_body_bytes == 2 * 1024 * 1024
    assert settings.log_retention_s == 3 * 86_400


@pytest.mark.parametrize(
    ("name", "text", "takes"),
    [
        ("OHMYGPT_BASE_URL", "ftp://x", "http"),
        ("OHMYGPT_BASE_URL", "https://", "http"),
        ("MONGODB_DB_NAME", "no spaces", "pattern"),
        ("PORT", "http", "integer"),
        ("PORT", "70000", "65535"),
        ("WEB_CONCURRENCY", "0", "greater than or equal to 1"),
        ("LOG_BATCH_SIZE", "1.5", "integer"),
        ("LOG_FLUSH_MS", "-1", "greater"),
        ("LOG_QUEUE_SIZE", "0", "greater"),
        ("JOURNAL_SYNC", "sometimes", "'group', 'always' or 'off'"),
        ("JOURNAL_MAX_MB", "0", "greater"),
        ("JOURNAL_FULL", "stop", "'pass' or 'refuse'"),
        ("LOG_RETENTION_DAYS", "-1", "greater"),
        ("UPSTREAM_CONNECT_TIMEOUT_S", "0", "greater than 0"),
        ("UPSTREAM_READ_TIMEOUT_S", "nan", "less than"),
        ("UPSTREAM_READ_TIMEOUT_S", "inf", "less than"),
        ("UPSTREAM_MAX_ATTEMPTS", "0", "greater"),
        ("UPSTREAM_AUTH", "basic", "'bearer'"),
        ("ON_CLIENT_ABORT", "wait", "'drain' or 'cancel'"),
        ("ABORT_DRAIN_S", "-1", "greater"),
        ("MAX_BODY_MB", "0", "greater"),
        ("RATE_LIMIT_RPM", "-1", "greater"),
        ("RATE_LIMIT_STORAGE_URI", "redis", "redis://"),
        ("STATS_TIMEZONE", "Mars/Base", "IANA"),
        ("STATS_TIMEZONE", "../etc/passwd", "IANA"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("LOG_FORMAT", "xml", "'text' or 'json'"),
        ("UPSTREAM_PROXY_POOL", "maybe", "'on' or 'off'"),
        ("UPSTREAM_PROXY_FALLBACK_DIRECT", "maybe", "'on' or 'off'"),
        ("GRACEFUL_TIMEOUT_S", "x\ny", "integer"),
    ],
)
def test_an_invalid_value_names_the_variable_and_what_it_takes(name: str, text: str, takes: str) -> None:
    said = problem(**{name: text})
    assert said.startswith(f"{name}: ")
    assert takes in said
    assert name.endswith("_URI") or repr(text) in said


def test_a_storage_uri_that_is_refused_is_not_shown() -> None:
    assert "hunter2" not in problem(RATE_LIMIT_STORAGE_URI="user:hunter2@host")


@pytest.mark.parametrize(
    "name",
    [
        "OHMYGPT_API_KEYS",
        "MONGODB_URI",
        "ADMIN_TOKEN",
        "SECRET_KEY",
        "PROXY_API_KEY",
        "RATE_LIMIT_STORAGE_URI",
    ],
)
def test_secrets_do_not_show_when_settings_are_printed(name: str) -> None:
    settings = load(**{name: "scheme://hunter2"})
    assert "hunter2" not in f"{settings!r} {settings}"


@pytest.mark.parametrize("name", ["ADMIN_TOKEN", "MONGODB_URI", "OHMYGPT_API_KEYS"])
def test_a_value_is_read_from_the_file_that_name_file_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text("  from-the-file \n")
    value: Any = getattr(load(**{f"{name}_FILE": str(path)}), name.lower())
    secret = value[0] if isinstance(value, tuple) else value
    assert secret.get_secret_value() == "from-the-file"


def test_an_empty_file_counts_as_unset(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_text("\n")
    assert load(ADMIN_TOKEN_FILE=str(path)).admin_token is None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    said = problem(ADMIN_TOKEN_FILE=str(tmp_path / "missing"))
    assert said.startswith("ADMIN_TOKEN_FILE: cannot read")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\xff")
    assert problem(ADMIN_TOKEN_FILE=str(path)).startswith("ADMIN_TOKEN_FILE: cannot read")


def test_a_variable_and_its_file_together_are_refused(tmp_path: Path) -> None:
    said = problem(ADMIN_TOKEN="hunter2", ADMIN_TOKEN_FILE=str(tmp_path / "x"))
    assert "ADMIN_TOKEN_FILE" in said
    assert "hunter2" not in said


def test_variables_of_others_are_ignored() -> None:
    assert load(PATH="/bin", OHMYGPT_BASE_URI="typo") == load()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1


def test_a_configured_secret_is_used_and_nothing_is_written(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert generated_secret(data, "admin-token", SecretStr("mine")) == "mine"
    assert not data.exists()


def test_a_secret_is_generated_once_and_for_the_owner_only(tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"
    secret = generated_secret(data, "secret-key", None)
    assert len(secret) >= 43
    assert generated_secret(data, "secret-key", None) == secret
    assert generated_secret(data, "admin-token", None) != secret
    assert stat.S_IMODE((data / "secret-key").stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert sorted(path.name for path in data.iterdir()) == ["admin-token", "secret-key"]


def test_an_emptied_secret_file_is_an_error_and_not_an_empty_secret(tmp_path: Path) -> None:
    (tmp_path / "secret-key").write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        generated_secret(tmp_path, "secret-key", None)


def test_processes_that_race_agree_on_one_secret(tmp_path: Path) -> None:
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as pool:
        secrets = set(pool.map(_generate, [tmp_path] * 32))
    assert len(secrets) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret-key"]


def test_a_process_that_comes_second_takes_the_secret_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = generated_secret(tmp_path, "secret-key", None)
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert generated_secret(tmp_path, "secret-key", None) == first
    assert [path.name for path in tmp_path.iterdir()] == ["secret-key"]


def _generate(data_dir: Path) -> str:
    return generated_secret(data_dir, "secret-key", None)
