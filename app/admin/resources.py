"""The parts of the dashboard that change things, in the order of the navigation."""

from app.admin.application import Page
from app.admin.audit import audit_pages
from app.admin.client_keys import client_key_pages
from app.admin.proxies import proxy_pages
from app.admin.upstream import upstream_pages
from app.admin.users import RecentRequests, user_pages
from app.management.administration import Administration


def resource_pages(administration: Administration, logs: RecentRequests) -> list[Page]:
    """Users, client keys, OhMyGPT keys, proxies, and the log of who did what."""
    return [
        Page("Users", "users.all_users", user_pages(administration, logs)),
        Page("Client keys", "client_keys.all_keys", client_key_pages(administration)),
        Page("OhMyGPT keys", "upstream.upstream", upstream_pages(administration)),
        Page("Proxies", "proxies.all_proxies", proxy_pages(administration)),
        Page("Audit log", "audit.entries", audit_pages(administration.audit)),
    ]
