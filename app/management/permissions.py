"""What each route of the dashboard and of the admin API takes: the one place that says so.

A route that is not in here takes `Permission.MANAGE`, which owners alone have: what is added later is closed
until it is classified, and a test fails until it is. Routes are named by method and rule, as Flask has them.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from app.accounts.roles import Permission

_CLASSIFIED: Final = {
    Permission.OPEN: """
        GET /admin/static/<path:filename>
        GET /admin/login
        POST /admin/login
        POST /admin/theme
        GET /admin/setup/<secret>
        POST /admin/setup/<secret>
    """,
    Permission.ENTER: """
        POST /admin/logout
        POST /admin/first-steps/hide
        GET /admin/new-key/<place>
        GET /admin/audit
        GET /admin/audit/<path:rest>
        GET /admin/client-keys
        GET /admin/client-keys/<path:rest>
        GET /admin/log
        GET /admin/log/<path:rest>
        GET /admin/proxies
        GET /admin/proxies/<path:rest>
        GET /admin/settings
        GET /admin/users
        GET /admin/users/<path:rest>
    """,
    Permission.OWN: """
        GET /admin/me
        GET /admin/me/keys
        GET /admin/me/keys/new
        POST /admin/me/keys/new
        GET /admin/me/keys/<key_id>
        GET /admin/me/keys/<key_id>/edit
        POST /admin/me/keys/<key_id>/edit
        POST /admin/me/keys/<key_id>/revoke
        POST /admin/me/keys/<key_id>/rotate
        GET /admin/me/requests
        GET /admin/me/requests/<request_id>
        GET /admin/me/statements
        GET /admin/me/statements/<month>
        GET /admin/me/statements/<month>.csv
    """,
    Permission.READ: """
        GET /admin/
        GET /admin/live
        GET /admin/search
        GET /admin/usage
        GET /admin/usage/export
        GET /admin/requests
        GET /admin/requests/columns
        GET /admin/requests/export
        GET /admin/requests/users
        GET /admin/requests/<path:request_id>
        GET /admin/billing
        GET /admin/billing/<month>
        GET /admin/billing/<month>/of/<path:name>
        GET /admin/billing/<month>/users.csv
        GET /admin/billing/prices
        GET /admin/customers
        GET /admin/customers.csv
        GET /admin/customers/<name>
        GET /admin/keys
        GET /admin/keys/<key_id>
        GET /admin/upstream
        GET /admin/upstream/keys/<key_id>
        GET /admin/upstream/models
        GET /admin/upstream/proxies
        GET /admin/upstream/proxies/<proxy_id>
        GET /admin/settings/audit
        GET /api/admin/alerts
        GET /api/admin/audit
        GET /api/admin/health
        GET /api/admin/keys
        GET /api/admin/keys/<key_id>
        GET /api/admin/metrics
        GET /api/admin/metrics/rate-limit
        GET /api/admin/model-stats
        GET /api/admin/ohmygpt/account
        GET /api/admin/ohmygpt/backup-keys
        GET /api/admin/ohmygpt/bindings
        GET /api/admin/ohmygpt/bindings/<proxy_id>
        GET /api/admin/ohmygpt/books
        GET /api/admin/ohmygpt/events
        GET /api/admin/ohmygpt/keys
        GET /api/admin/ohmygpt/keys/<key_id>
        GET /api/admin/ohmygpt/stats
        GET /api/admin/prices
        GET /api/admin/prices/missing
        GET /api/admin/prices/versions
        GET /api/admin/proxies
        GET /api/admin/proxies/<proxy_id>
        GET /api/admin/proxies/<proxy_id>/health
        GET /api/admin/request-logs
        GET /api/admin/request-logs/<request_id>
        GET /api/admin/request-logs/breakdown
        GET /api/admin/request-logs/export
        GET /api/admin/statements
        GET /api/admin/statements/<month>
        GET /api/admin/statements/<month>/<user>
        GET /api/admin/timeseries
        GET /api/admin/usage
        GET /api/admin/user-stats
        GET /api/admin/users
        GET /api/admin/users/<username>
        GET /api/admin/users/<username>/ledger
        GET /api/admin/verify
        GET /keys/status
    """,
    Permission.BILL: """
        POST /admin/billing/<month>/close
        POST /admin/billing/prices
        POST /admin/customers/<name>/credit
        POST /admin/customers/<name>/debit
        POST /api/admin/prices/preview
        POST /api/admin/statements/<month>/close
        PATCH /api/admin/users/<username>/credits
        POST /api/admin/users/<username>/credits/add
        PATCH /api/admin/users/<username>/refCredits
        POST /api/admin/users/<username>/refCredits/add
    """,
    Permission.MANAGE: """
        POST /admin/upstream/bindings
        POST /admin/upstream/bindings/<proxy_id>/<key_id>
        POST /admin/upstream/bindings/<proxy_id>/<key_id>/delete
        POST /admin/upstream/bindings/repair
        POST /admin/keys/<key_id>/active
        POST /admin/keys/<key_id>/delete
        POST /admin/keys/<key_id>/limits
        POST /admin/keys/<key_id>/revoke
        POST /admin/keys/<key_id>/rotate
        POST /admin/upstream/proxies
        POST /admin/upstream/proxies/<proxy_id>
        POST /admin/upstream/proxies/<proxy_id>/active
        POST /admin/upstream/proxies/<proxy_id>/check
        POST /admin/upstream/proxies/<proxy_id>/delete
        POST /admin/upstream/<place>/add
        POST /admin/upstream/<place>/import
        POST /admin/upstream/pool/<key_id>/delete
        POST /admin/upstream/pool/<key_id>/limits
        POST /admin/upstream/pool/<key_id>/reset
        POST /admin/upstream/spares/<key_id>/delete
        POST /admin/upstream/spares/<key_id>/restore
        POST /admin/customers
        POST /admin/customers/<name>/active
        POST /admin/customers/<name>/keys
        POST /admin/customers/<name>/limits
        POST /admin/customers/<name>/password
        POST /admin/customers/<name>/settings
        POST /api/admin/keys
        PATCH /api/admin/keys/<key_id>
        DELETE /api/admin/keys/<key_id>
        POST /api/admin/keys/<key_id>/reset
        POST /api/admin/keys/<key_id>/rotate
        POST /api/admin/ohmygpt/backup-keys
        DELETE /api/admin/ohmygpt/backup-keys/<key_id>
        POST /api/admin/ohmygpt/backup-keys/<key_id>/restore
        POST /api/admin/ohmygpt/backup-keys/import
        POST /api/admin/ohmygpt/bindings
        DELETE /api/admin/ohmygpt/bindings/<proxy_id>
        PATCH /api/admin/ohmygpt/bindings/<proxy_id>/<key_id>
        DELETE /api/admin/ohmygpt/bindings/<proxy_id>/<key_id>
        POST /api/admin/ohmygpt/keys
        PATCH /api/admin/ohmygpt/keys/<key_id>
        DELETE /api/admin/ohmygpt/keys/<key_id>
        POST /api/admin/ohmygpt/keys/<key_id>/reset
        POST /api/admin/ohmygpt/keys/import
        POST /api/admin/ohmygpt/repair-bindings
        POST /api/admin/proxies
        PATCH /api/admin/proxies/<proxy_id>
        DELETE /api/admin/proxies/<proxy_id>
        POST /api/admin/proxies/<proxy_id>/check
        POST /api/admin/users
        PATCH /api/admin/users/<username>
        POST /api/admin/users/<username>/disable
        POST /api/admin/users/<username>/enable
        PUT /api/admin/users/<username>/password
        GET /reload
        POST /reload
    """,
}


def _read() -> Iterator[tuple[tuple[str, str], Permission]]:
    for permission, routes in _CLASSIFIED.items():
        for line in filter(None, map(str.strip, routes.splitlines())):
            method, _, rule = line.partition(" ")
            yield (method, rule), permission


ROUTES: Final[Mapping[tuple[str, str], Permission]] = dict(_read())


def needed(method: str, rule: str) -> Permission:
    """Return what a request with this method to this rule takes; asking about it is as reading it."""
    return ROUTES.get(("GET" if method in ("HEAD", "OPTIONS") else method, rule), Permission.MANAGE)
