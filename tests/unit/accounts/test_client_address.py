"""The address a request has behind proxies: nobody can choose the one that counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.accounts.client_address import client_address, counted_network, parse_networks

TRUSTED = parse_networks("10.0.0.0/8, ::1")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        pytest.param("203.0.113.9", "198.51.100.1", "203.0.113.9", id="a stranger's header"),
        pytest.param("10.0.0.1", None, "10.0.0.1", id="no header"),
        pytest.param("10.0.0.1", "", "10.0.0.1", id="an empty header"),
        pytest.param("10.0.0.1", "198.51.100.1", "198.51.100.1", id="one proxy"),
        pytest.param("10.0.0.1", "1.2.3.4, 198.51.100.1", "198.51.100.1", id="what the client began with"),
        pytest.param("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1", id="two proxies"),
        pytest.param("10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3", id="trusted all the way"),
        pytest.param("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1", id="nonsense at the end"),
        pytest.param("10.0.0.1", "nonsense, 10.0.0.2", "10.0.0.2", id="nonsense further on"),
        pytest.param("::1", "[2001:db8::5]:443", "2001:db8::5", id="IPv6 with a port"),
        pytest.param("::ffff:10.0.0.1", "198.51.100.1:1234", "198.51.100.1", id="IPv4 with a port"),
        pytest.param(None, "198.51.100.1", None, id="no peer"),
        pytest.param("", "198.51.100.1", "", id="a socket without address"),
    ],
)
def test_the_address_is_what_the_last_trusted_proxy_saw(peer, forwarded_for, address):
    assert client_address(peer, forwarded_for, TRUSTED) == address


def test_without_trusted_proxies_the_header_says_nothing():
    assert client_address("10.0.0.1", "198.51.100.1", ()) == "10.0.0.1"


@given(st.text(max_size=60))
def test_whatever_a_client_sends_the_proxy_has_the_last_word(sent):
    assert client_address("10.0.0.1", f"{sent},198.51.100.1", TRUSTED) == "198.51.100.1"


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        (None, "unknown"),
        ("", "unknown"),
    ],
)
def test_an_address_counts_as_what_one_client_has(address, counted):
    assert counted_network(address) == counted
