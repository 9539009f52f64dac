"""Placeholders and monotonous secrets are refused, random ones never."""

import re
import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.common.secret_strength import PASSWORD_MIN_CHARS, SECRET_MIN_CHARS, weakness
from app.settings import ROOT

HEX = "0123456789abcdef"


@pytest.mark.parametrize(
    "secret",
    [
        "MAKE-ONE-WITH-openssl-rand-hex-32", "changeme-changeme", "ChangeMeChangeMeNow2024",
        "sk-xxxxxxxxxxxxxxxx", "sk-your-proxy-api-key", "<your admin token here>", "your_secret_key_here",
        "replace-me-with-a-long-random-string", "mysupersecretadmintoken", "admin-token-1234567890",
        "aaaaaaaaaaaaaaaaaa", "abababababababababab", "hunter2-hunter2-", "0123456789abcdef",
        "fedcba9876543210", "12345678901234567890", "qwertyuiopasdfghjkl", "PASSWORD-PASSWORD-1",
        "****************", "example.example.example", "\N{FULL BLOCK}" * 16,
    ],
)  # fmt: skip
def test_what_nobody_has_chosen_is_refused(secret):
    assert weakness(secret, SECRET_MIN_CHARS) is not None


@pytest.mark.parametrize(
    "secret",
    [
        "admin-token-of-the-operators", "replay-admin-token-0123456789", "correct horse battery",
        "nur-wir-wissen-das", "3a5bdeadbeefcafe00", "7305836492016475",
    ],
)  # fmt: skip
def test_what_has_a_word_of_its_own_passes(secret):
    assert weakness(secret, SECRET_MIN_CHARS) is None


@given(st.text("".join(sorted(set(string.ascii_letters + string.digits + "-_"))), min_size=32, max_size=64))
def test_it_says_something_of_any_text(secret):
    assert weakness(secret, SECRET_MIN_CHARS) in (None, *SAYINGS)


SAYINGS = (
    "this one is the same again and again",
    "this one is a row of neighbours, such as 123456",
    "this one is a placeholder",
)


@given(st.binary(min_size=32, max_size=32))
def test_what_openssl_rand_makes_passes(drawn):
    # Bytes that a generator would never draw (all alike) are hypothesis' favourites.
    secret = drawn.hex()
    if len(set(secret)) > len(HEX) // 2 and len(set(drawn)) > len(drawn) // 2:
        assert weakness(secret, SECRET_MIN_CHARS) in (None, SAYINGS[1])


def test_a_long_secret_is_looked_at_quickly():
    assert weakness("secret" * 2000 + "-my-own-wort", SECRET_MIN_CHARS) is None


def test_a_password_is_not_the_name_of_its_user():
    assert weakness("grandmother-1", PASSWORD_MIN_CHARS) is None
    assert weakness("grandmother-1", PASSWORD_MIN_CHARS, "Grandmother") is not None
    assert weakness("short-one-1", PASSWORD_MIN_CHARS) == "this one is shorter"


def test_the_examples_that_are_shipped_are_refused():
    manifest = yaml.safe_load((ROOT / "deploy/kubernetes/secret.example.yaml").read_text(encoding="utf-8"))
    shipped = [manifest["stringData"][name] for name in ("secret-key", "admin-token")]
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "deploy/systemd/weir.env"]
    for page in pages:
        assigned = r"^.*\b(?:ADMIN_TOKEN|SECRET_KEY|PROXY_API_KEY)=([^\s`'\"]+)"
        shipped += re.findall(assigned, page.read_text(encoding="utf-8"), re.MULTILINE)
    assert [secret for secret in shipped if weakness(secret, SECRET_MIN_CHARS) is None] == []
