"""The dashboard over a real database, its stores and their failures, without a server."""

import hashlib
import re
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask
from flask.testing import FlaskClient
from pymongo.database import Database
from werkzeug.test import TestResponse

from app.accounts.dashboard_access import DashboardAccounts, EndedSessions
from app.accounts.login_guard import AdminLoginGuard
from app.accounts.rate_limiter import SharedRateLimiter
from app.accounts.shown_once import ShownOnce
from app.accounts.users import PasswordHash, UserStore
from app.admin import AuthConfig, Page, dashboard_app
from app.admin.customers import CustomerSources
from app.admin.home import DashboardSources, home_pages
from app.admin.live import LiveFeed
from app.admin.new_keys import NewKeys
from app.admin.own_pages import OwnSources, own_pages
from app.admin.prices import price_pages
from app.admin.request_pages import request_pages
from app.admin.resources import resource_pages
from app.admin.search import Searched
from app.admin.upstream import UpstreamSources
from app.admin.usage_pages import usage_pages
from app.api.admin.request_logs import export_response
from app.api.downloads import csv_download
from app.billing.statements import Statements
from app.common.errors import StoreUnavailable
from app.management.administration import Administration, build_administration
from app.management.audit import AuditLog
from app.management.client_keys import ClientKeyAdmin
from app.management.first_owner import FirstOwner
from app.management.first_steps import FirstSteps
from app.management.price_history import PriceHistory
from app.management.reading import Traffic
from app.management.users import UserAdmin
from app.pricing.model_table import ModelTable
from app.records.request_logs import RequestLogStore
from app.settings import Settings
from app.statistics.stats_store import StatsStore
from app.store.key_cipher import KeyCipher
from tests.support.logins import Inline

TOKEN = "the-admin-tökén-of-the-tests"
MODELS = Path(__file__).parent / "models.toml"
PASSWORD = "correct horse battery"
NOON = datetime(2026, 11, 23, 12, 20, 30, tzinfo=UTC)

HEALTHY: dict[str, Any] = {
    "lostRecords": 0, "deadLetters": 0, "writtenRecords": 12345, "journalDepth": 0, "queueDepth": 0,
    "oldestUnsentSeconds": 0, "memoryOnlyRecords": 0, "journalBytes": 4096, "journalMaxBytes": 4 * 2**30,
    "journalFull": 0, "openRequests": 0, "inFlight": 3, "storeUp": 1, "workers": [{"pid": 1}],
}  # fmt: skip


def _quickly(password: str) -> PasswordHash:
    """Hash a password in one round, which no busy machine takes long for."""
    return PasswordHash(hashlib.pbkdf2_hmac("sha512", password.encode(), b"00", 1, 64).hex(), "00", 1)


class SetClock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOON

    def utcnow(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.now.timestamp()

    def new_request_id(self) -> str:
        return "x"

    def forward(self, **parts: float) -> None:
        self.now += timedelta(**parts)


class Away:
    """Stands for any store that cannot answer."""

    def for_one_answer(self) -> "Away":
        """Ask nothing yet."""
        return self

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: Any, **__: Any) -> Any:
            raise StoreUnavailable("connection refused")

        return refuse


class DashboardWorld:
    """A dashboard and everything around it. Change what you like before `app()`."""

    def __init__(self, database: Database[Any]) -> None:
        self.database = database
        self.users = UserStore(database)
        self.clock = SetClock()
        self.tz: tzinfo = UTC
        self.token = TOKEN
        self.session_key = "signs sessions"
        self.accounts: Any = DashboardAccounts(database)
        self.ended: Any = EndedSessions(database)
        self.stats: Any = StatsStore(database)
        self.limiter = SharedRateLimiter("w1", lambda: self.clock.now.timestamp())
        self.health: dict[str, Any] = dict(HEALTHY)
        self.keys: list[Any] = []
        self.spare_keys: int | None = 2
        self.traffic = Traffic()
        self.first_steps = lambda: FirstSteps(True, True, True)
        self.more_pages: list[Page] = []
        self.more_routes: list[Blueprint] = []
        self.first_owner = FirstOwner(database, UserAdmin(database, AuditLog(database), derive=_quickly))
        self.models = ModelTable.from_toml(MODELS.read_text())
        self.new_keys = NewKeys(ShownOnce(database), self.models, self.clock)

    def customers(
        self, administration: Administration, database: Database[Any] | None = None
    ) -> CustomerSources:
        """What the pages of users and client keys read, of this database or of another one."""
        database = self.database if database is None else database
        return CustomerSources(
            administration=administration,
            stats=StatsStore(database),
            logs=RequestLogStore(database),
            new_keys=self.new_keys,
            download=csv_download,
            clock=self.clock,
            tz=self.tz,
        )

    @property
    def upstream(self) -> UpstreamSources:
        """What the pages about the upstream show beside the stored keys."""
        return UpstreamSources(
            stats=self.stats,
            health=lambda: self.health,
            hosts=["https://user:secret@host.test/v1"],
            clock=self.clock,
            tz=self.tz,
        )

    def add_user(self, name: str, role: str = "admin", password: str = PASSWORD) -> None:
        """A user who can log in, or not."""
        self.users.add(name, now=NOON, role=role, password=_quickly(password))

    def app(self) -> Flask:
        """The application; it sees later changes of users, clock and health."""
        entrance = AuthConfig(
            admin_token=self.token,
            session_key=self.session_key,
            guard=AdminLoginGuard(
                self.token,
                self.users,
                self.limiter,
                Inline(),
                monotonic=self.clock.monotonic,
                sleep=lambda seconds: self.clock.forward(seconds=seconds),
            ),
            accounts=self.accounts,
            ended=self.ended,
            first_owner=self.first_owner,
        )
        instruments = DashboardSources(
            health=lambda: self.health,
            keys=lambda: self.keys,
            spare_keys=lambda: self.spare_keys,
            first_steps=lambda: self.first_steps(),
            models=lambda: len(self.models.models),
        )
        home = home_pages(self.stats, instruments, self.clock, self.tz)
        users, audit = UserAdmin(self.database, AuditLog(self.database)), AuditLog(self.database)
        own = OwnSources(
            users=users,
            keys=ClientKeyAdmin(self.database, audit),
            statements=Statements(self.database, self.tz),
            logs=RequestLogStore(self.database),
            clock=self.clock,
            tz=self.tz,
            new_keys=self.new_keys,
        )
        pages = [Page("Home", "Home", "home.home", home), *self.more_pages]
        given = {page.routes.name for page in pages}
        pages += [page for page in self._usual_pages() if page.routes.name not in given]
        pages.append(Page("You", "You", "own.usage", own_pages(own)))
        more = [self.new_keys.pages(), *self.more_routes]
        searched = Searched(
            users=users,
            client_keys=ClientKeyAdmin(self.database, audit),
            logs=RequestLogStore(self.database),
            models=self.models,
            upstream_keys=lambda: self.keys,
        )
        return dashboard_app(
            entrance,
            pages,
            self.clock,
            self.tz,
            more,
            searched=searched,
            feed=LiveFeed(traffic=lambda: self.traffic),
        )

    def _usual_pages(self) -> list[Page]:
        """The pages that others lead to."""
        logs, prices = RequestLogStore(self.database), PriceHistory(self.database, lambda: self.models)
        settings = Settings(data_dir=Path("/nowhere"))
        administration = build_administration(settings, self.database, KeyCipher("secret"))
        requests = request_pages(logs, self.models, export_response, self.clock, self.tz)
        usage = usage_pages(self.stats, csv_download, self.clock, self.tz)
        return [
            Page("Usage", "Usage", "usage.usage", usage),
            Page("Requests", "Requests", "requests.table", requests),
            Page(
                "Billing", "Prices", "prices.versions", price_pages(prices, self.stats, self.clock, self.tz)
            ),
            *resource_pages(administration, self.customers(administration), self.upstream),
        ]

    def browser(self) -> "Browser":
        """Somebody who has never been here."""
        return Browser(self.app().test_client())

    def admin(self) -> "Browser":
        """Somebody who has logged in with the token."""
        browser = self.browser()
        assert browser.log_in(token=self.token).status_code == 303
        return browser


class Browser:
    """Follows the dashboard's forms the way a browser does, below `/admin`."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def get(self, path: str, **more: Any) -> TestResponse:
        """A page; `path` is below `/admin`."""
        response = self.client.get(path, base_url="http://weir.test/admin", **more)
        response.get_data()
        response.close()  # files of our own are sent open
        return response

    def post(self, path: str, token_from: str = "/login", **fields: str) -> TestResponse:
        """Send a form as the page `token_from` would."""
        return self.bare_post(path, csrf_token=self.csrf_token(token_from), **fields)

    def bare_post(self, path: str, **fields: str) -> TestResponse:
        """Send a form without its token."""
        return self.client.post(path, data=fields, base_url="http://weir.test/admin")

    def csrf_token(self, path: str) -> str:
        """The token in a page's first form."""
        found = re.search(
            r'name="csrf_token"[^>]* value="([^"]+)"', self.get(path, follow_redirects=True).text
        )
        assert found is not None, path
        return found[1]

    def log_in(self, **fields: str) -> TestResponse:
        """Send the login form."""
        return self.post("/login", **fields)

    @property
    def is_in(self) -> bool:
        """Whether the overview is shown."""
        return self.get("/").status_code == 200

    def cookie(self) -> str:
        """The session's cookie."""
        found = self.client.get_cookie("weir_admin", "weir.test", "/admin")
        assert found is not None
        return found.value

    def with_cookie(self, value: str) -> "Browser":
        """Put another session's cookie in."""
        self.client.set_cookie("weir_admin", value, domain="weir.test", path="/admin")
        return self
