"""Whose address the audit log keeps behind a reverse proxy."""

from ipaddress import ip_network

import pytest

from tests.support.admin_api import Admin, admin_app

PROXY = {"REMOTE_ADDR": "10.0.0.1"}


@pytest.mark.parametrize(
    ("trusted", "address"), [((), "10.0.0.1"), ((ip_network("10.0.0.0/8"),), "198.51.100.1")]
)
def test_the_address_of_the_client_counts_where_its_proxy_is_trusted(
    database, mongo_uri, tmp_path, trusted, address
):
    with admin_app(mongo_uri, database.name, tmp_path / "var", trusted_proxies=trusted) as app:
        admin = Admin(app)
        admin.headers["X-Forwarded-For"] = "192.0.2.1, 198.51.100.1"
        assert admin("POST", "/users", {"username": "ann"}, environ_base=PROXY).status_code == 201
        assert [entry["address"] for entry in admin.get("/audit")["entries"]] == [address]
