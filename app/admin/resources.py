"""The parts of the dashboard that change things, in the order of the navigation."""

from app.admin.application import Page
from app.admin.audit import audit_pages
from app.admin.client_keys import client_key_pages
from app.admin.customers import CustomerSources
from app.admin.proxies import proxy_pages
from app.admin.upstream import UpstreamSources, upstream_pages
from app.admin.upstream_models import upstream_model_pages
from app.admin.users import user_pages
from app.management.administration import Administration


def resource_pages(
    administration: Administration, customers: CustomerSources, upstream: UpstreamSources
) -> list[Page]:
    """Make the pages of users, client keys, OhMyGPT keys, proxies, and the log of who did what."""
    return [
        Page("Customers", "Users", "users.all_users", user_pages(customers)),
        Page("Customers", "Client keys", "client_keys.all_keys", client_key_pages(customers)),
        Page("Upstream", "Upstream keys", "upstream.upstream", upstream_pages(administration, upstream)),
        Page("Upstream", "Margins", "upstream_models.models", upstream_model_pages(upstream)),
        Page("Upstream", "Proxies", "proxies.all_proxies", proxy_pages(administration)),
        Page(
            "Settings",
            "Audit log",
            "audit.entries",
            audit_pages(administration.audit, upstream.clock, upstream.tz),
        ),
    ]
