import os
import stat
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.common.errors import SettingsError
from app.exchange.client_shares import ShareLimits
from app.settings import (
    ROOT,
    Settings,
    check_data_dir,
    check_stored_secrets,
    close_data_dir,
    generated_secret,
)

DEFAULTS = {
    "OHMYGPT_BASE_URL": ("https://apic1.ohmycdn.com",),
    "OHMYGPT_API_KEYS": (),
    "OHMYGPT_MANAGEMENT_KEY": None,
    "OHMYGPT_UNITS_PER_USD": None,
    "UPSTREAM_COST_DRIFT": Decimal("0.05"),
    "MONGODB_URI": None,
    "MONGODB_DB_NAME": "fproxy",
    "MONGOD_BIN": None,
    "DATA_DIR": Path("./var").absolute(),
    "HOST": "127.0.0.1",
    "PORT": 8005,
    "WEB_CONCURRENCY": 1,
    "ALERT_URLS": (),
    "ALERT_LEAST_USABLE": 1,
    "ALERT_LEAST_BALANCE": Decimal(0),
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
    "REFUSAL_RECORDS_RPM": 60,
    "RECORD_ERROR_MESSAGES": "on",
    "ATTRIBUTION": "full",
    "BACKGROUND_POLL_S": 30.0,
    "LOG_RETENTION_DAYS": 30,
    "UPSTREAM_CONNECT_TIMEOUT_S": 5.0,
    "UPSTREAM_READ_TIMEOUT_S": 300.0,
    "UPSTREAM_MAX_ATTEMPTS": 3,
    "AFFINITY": "conversation",
    "KEY_SYNC_MS": 1000,
    "KEY_PROBE_AFTER_S": 86_400.0,
    "UPSTREAM_AUTH": "bearer",
    "UPSTREAM_REASONING": "auto",
    "UNPRICED_MODELS": "off",
    "DEFAULT_ANTHROPIC_VERSION": "2023-06-01",
    "SSE_KEEPALIVE_S": None,
    "ON_CLIENT_ABORT": "drain",
    "ABORT_DRAIN_S": 20.0,
    "MAX_BODY_MB": 32,
    "MAX_BODIES_MB": 512,
    "RATE_LIMIT_RPM": 2000,
    "RATE_LIMIT_STORAGE_URI": None,
    "STATS_TIMEZONE": "UTC",
    "LOG_LEVEL": "info",
    "LOG_FORMAT": None,
    "UPSTREAM_PROXY_POOL": "on",
    "UPSTREAM_PROXY_FALLBACK_DIRECT": "on",
    "GRACEFUL_TIMEOUT_S": 120,
    "TRUSTED_PROXIES": (),
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


def test_nobody_may_have_the_whole_worker_but_two_bodies_at_least() -> None:
    mb = 1024 * 1024
    assert load().share_limits == ShareLimits(512 * mb, 256 * mb, 128 * mb, 2000)
    assert load(MAX_BODIES_MB="64").share_limits == ShareLimits(64 * mb, 64 * mb, 64 * mb, 2000)
    limits = load(MAX_BODY_MB="200", MAX_BODIES_MB="300", WORKER_CONNECTIONS="20").share_limits
    assert limits == ShareLimits(400 * mb, 400 * mb, 400 * mb, 10)


def test_the_defaults_above_are_all_there_are() -> None:
    assert {field.upper() for field in Settings.model_fields} == set(DEFAULTS)


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("empty", ["", "   "])
def test_empty_counts_as_unset(name: str, empty: str) -> None:
    assert getattr(load(**{name: empty}), name.lower()) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("OHMYGPT_BASE_URL", "http://127.0.0.1:9/x/", ("http://127.0.0.1:9/x",)),
        (
            "OHMYGPT_BASE_URL",
            "https://a.example, http://b:1/,\nhttps://a.example/,",
            ("https://a.example", "http://b:1"),
        ),
        ("MONGODB_DB_NAME", "other-db", "other-db"),
        ("PORT", " 9000 ", 9000),
        ("SSE_KEEPALIVE_S", "OFF", None),
        ("SSE_KEEPALIVE_S", "0", None),
        ("SSE_KEEPALIVE_S", "30", 30.0),
        ("PORT", "0", 0),
        ("WEB_CONCURRENCY", "8", 8),
        ("DATA_DIR", "/srv/weir", Path("/srv/weir")),
        ("JOURNAL_SYNC", "always", "always"),
        ("JOURNAL_FULL", "refuse", "refuse"),
        ("REFUSAL_RECORDS_RPM", "0", 0),
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


def test_each_upstream_host_has_to_be_a_url_and_there_are_few() -> None:
    assert "got 'ftp://x'" in problem(OHMYGPT_BASE_URL="https://good.example,ftp://x")
    many = ",".join(f"https://h{number}" for number in range(11))
    assert "takes 1 to 10 URLs" in problem(OHMYGPT_BASE_URL=many)


@pytest.mark.parametrize(
    ("name", "text", "takes"),
    [
        ("OHMYGPT_BASE_URL", "ftp://x", "http"),
        ("OHMYGPT_BASE_URL", "https://", "http"),
        ("OHMYGPT_BASE_URL", "https://:80", "http"),
        ("OHMYGPT_BASE_URL", "https://host:99999", "http"),
        ("OHMYGPT_BASE_URL", "https://ho st", "http"),
        ("OHMYGPT_BASE_URL", "https://host/?key=1", "http"),
        ("OHMYGPT_BASE_URL", ",", "1 to 10 URLs"),
        ("ALERT_LEAST_USABLE", "-1", "greater"),
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
    settings = load(**{name: "scheme://hunter2-hunter2"})
    assert "hunter2" not in f"{settings!r} {settings}"


def test_alerts_go_to_urls_with_white_space_between_and_commas_within() -> None:
    urls = load(ALERT_URLS="mailto://u:p@h?to=a@b.c,d@e.f\n json://h/x json://h/x").alert_urls
    assert [url.get_secret_value() for url in urls] == ["mailto://u:p@h?to=a@b.c,d@e.f", "json://h/x"]
    for wrong in ("json://h/ hidden-token", " ".join(f"json://h/hidden-{number}" for number in range(21))):
        with pytest.raises(SettingsError, match="ALERT_URLS: takes up to 20 URLs") as caught:
            load(ALERT_URLS=wrong)
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("name", ["ADMIN_TOKEN", "MONGODB_URI", "OHMYGPT_API_KEYS"])
def test_a_value_is_read_from_the_file_that_name_file_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text("  from-the-file-it-names \n")
    value: Any = getattr(load(**{f"{name}_FILE": str(path)}), name.lower())
    secret = value[0] if isinstance(value, tuple) else value
    assert secret.get_secret_value() == "from-the-file-it-names"


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


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("found", [0o755, 0o750, 0o701, 0o770, 0o777, 0o2775])
def test_an_open_data_directory_of_ours_is_closed_with_what_is_in_it(tmp_path: Path, found: int) -> None:
    data = tmp_path / "data"
    (data / "journal").mkdir(parents=True)
    (data / "secret-key").write_text("0123456789abcdef\n")
    (tmp_path / "elsewhere").write_text("not ours to change")
    (data / "link").symlink_to(tmp_path / "elsewhere")
    for path in (data / "journal", tmp_path / "elsewhere", data / "secret-key"):
        path.chmod(0o755)
    data.chmod(found)
    assert check_data_dir(data)
    assert mode(data) == found, "looking changes nothing"
    assert close_data_dir(data)
    assert (mode(data), mode(data / "journal")) == (0o700, 0o700)
    assert mode(data / "secret-key") & 0o077 == 0
    assert mode(tmp_path / "elsewhere") == 0o755
    assert not close_data_dir(data)


def test_a_data_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    data = tmp_path / "deep" / "data"
    assert not check_data_dir(data)
    assert not data.exists()
    assert not close_data_dir(data)
    assert mode(data) == 0o700


def refused_data_dir(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        close_data_dir(path)
    assert str(caught.value).startswith("DATA_DIR: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_open_data_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    reason = refused_data_dir(tmp_path)
    assert f"belongs to user id {owner}" in reason
    assert f"such as {tmp_path}/weir, which Weir makes" in reason
    tmp_path.chmod(0o700)
    assert not check_data_dir(tmp_path), "root may work in the service's"


def test_a_directory_for_everybody_is_not_taken_away(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert "others use it, too" in refused_data_dir(tmp_path)
    assert mode(tmp_path) == 0o1777


@pytest.mark.parametrize("path", ["/", "/usr", "/etc", "/var", "/usr/lib"])
def test_the_systems_directories_are_left_alone(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: Path(path).stat().st_uid)
    monkeypatch.setattr(Path, "chmod", lambda *_: pytest.fail("it was changed"))
    assert "others use it, too" in refused_data_dir(Path(path))


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert "is none" in refused_data_dir(tmp_path / "data")


@pytest.mark.parametrize("name", ["ADMIN_TOKEN", "SECRET_KEY", "PROXY_API_KEY"])
def test_a_secret_that_can_be_guessed_is_refused_and_not_shown(tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter2-hunter2\n")
    for variable, value in ((name, "hunter2-hunter2"), (f"{name}_FILE", str(path))):
        said = problem(**{variable: value})
        assert said.startswith(f"{variable}: takes at least 16 characters")
        assert "hunter2" not in said
    assert getattr(load(**{name: "hunter2-hunter3-"}), name.lower()) is not None


@pytest.mark.parametrize("name", ["ADMIN_TOKEN", "SECRET_KEY", "PROXY_API_KEY"])
def test_a_placeholder_is_no_secret(tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text("change-me-in-production\n")
    for variable, value in ((name, "change-me-in-production"), (f"{name}_FILE", str(path))):
        said = problem(**{variable: value})
        assert said.startswith(f"{variable}: takes at least 16 characters")
        assert said.endswith("this one is a placeholder")


@pytest.mark.parametrize(
    ("first", "second"),
    [("ADMIN_TOKEN", "SECRET_KEY"), ("ADMIN_TOKEN", "PROXY_API_KEY"), ("SECRET_KEY", "PROXY_API_KEY")],
)
def test_one_secret_for_two_purposes_is_refused(first: str, second: str) -> None:
    said = problem(**{first: "one-secret-of-both", second: "one-secret-of-both"})
    assert said == f"{second}: takes another secret than {first}"


def test_trusted_proxies_are_addresses_and_networks() -> None:
    found = load(TRUSTED_PROXIES="10.0.0.0/8, 192.0.2.7 ::1").trusted_proxies
    assert [str(network) for network in found] == ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]
    for wrong in ("all", "10.0.0.1/8", "10.0.0.0/33", "proxy.example.com"):
        assert problem(TRUSTED_PROXIES=wrong).startswith("TRUSTED_PROXIES: takes addresses or networks")


@pytest.mark.parametrize("name", ["admin-token", "secret-key"])
def test_a_stored_secret_that_was_made_short_by_hand_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hunter2\n")
    settings = load(DATA_DIR=str(tmp_path))
    for use in (lambda: check_stored_secrets(settings), lambda: generated_secret(tmp_path, name, None)):
        with pytest.raises(SettingsError, match="takes at least 16 characters") as refusal:
            use()
        assert str(refusal.value).startswith(f"{name.upper().replace('-', '_')}: ")
        assert "hunter2" not in str(refusal.value)


def test_a_stored_secret_that_is_not_in_use_may_be_short(tmp_path: Path) -> None:
    (tmp_path / "admin-token").write_text("short")
    check_stored_secrets(load(DATA_DIR=str(tmp_path), ADMIN_TOKEN="a-token-of-the-operator"))


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
