"""All actions of administrators, put together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo.database import Database

from app.accounts.users import PasswordHash, hash_password
from app.management.audit import AuditLog
from app.management.backup_keys import BackupKeyAdmin
from app.management.bindings import BindingAdmin
from app.management.client_keys import ClientKeyAdmin
from app.management.first_owner import FirstOwner
from app.management.ledger_watch import LedgerWatch
from app.management.proxies import ProxyAdmin
from app.management.upstream_books import UpstreamBooks
from app.management.upstream_keys import UpstreamKeyAdmin
from app.management.users import UserAdmin
from app.settings import Settings
from app.store.key_cipher import KeyCipher


def _nothing(*_changed: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Changes:
    """Who is told at once what was changed; without a running worker nobody needs to be.

    Of users and client keys with their ids and whether they are active now.
    """

    user: Callable[[str, bool], None] = _nothing
    client_key: Callable[[str, bool], None] = _nothing
    pool: Callable[[], object] = _nothing


@dataclass(frozen=True, slots=True)
class Administration:
    """The actions, by what they are on."""

    audit: AuditLog
    users: UserAdmin
    first_owner: FirstOwner
    client_keys: ClientKeyAdmin
    keys: UpstreamKeyAdmin
    books: UpstreamBooks
    ledger: LedgerWatch
    backup_keys: BackupKeyAdmin
    proxies: ProxyAdmin
    bindings: BindingAdmin


def build_books(settings: Settings, db: Database[dict[str, Any]]) -> UpstreamBooks:
    """Build what compares OhMyGPT's books with this database's."""
    return UpstreamBooks(db, settings.tz, settings.ohmygpt_units_per_usd, settings.upstream_cost_drift)


def build_administration(
    settings: Settings,
    db: Database[dict[str, Any]],
    cipher: KeyCipher,
    changes: Changes | None = None,
    derive: Callable[[str], PasswordHash] = hash_password,
) -> Administration:
    """Build the actions over this database; `derive` hashes passwords, off the event loop if there is one."""
    changes = changes or Changes()
    audit, zone = AuditLog(db), settings.tz
    env_keys: Sequence[str] = [key.get_secret_value() for key in settings.ohmygpt_api_keys]
    keys = UpstreamKeyAdmin(db, cipher, audit, changes.pool, env_keys)
    books = build_books(settings, db)
    users = UserAdmin(db, audit, changes.user, derive, zone)
    return Administration(
        audit=audit,
        users=users,
        first_owner=FirstOwner(db, users),
        client_keys=ClientKeyAdmin(db, audit, changes.client_key, zone),
        keys=keys,
        books=books,
        ledger=LedgerWatch(db, books, settings.tz, settings.upstream_cost_drift),
        backup_keys=BackupKeyAdmin(db, cipher, audit),
        proxies=ProxyAdmin(db, cipher, audit, settings.ohmygpt_base_url, settings.upstream_connect_timeout_s),
        bindings=BindingAdmin(db, cipher, audit, keys),
    )
