"""All actions of administrators, put together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo.database import Database

from app.adapters.key_cipher import KeyCipher
from app.adapters.mongo.audit_log import AuditStore
from app.adapters.mongo.credit_ledger import CreditLedger
from app.adapters.mongo.users import PasswordHash, hash_password
from app.management.audit import AuditLog
from app.management.backup_keys import BackupKeyAdmin
from app.management.bindings import BindingAdmin
from app.management.client_keys import ClientKeyAdmin
from app.management.proxies import ProxyAdmin
from app.management.upstream_keys import UpstreamKeyAdmin
from app.management.users import UserAdmin
from app.settings import Settings


def _nothing(*_changed: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Changes:
    """Who is told at once what was changed; without a running worker nobody needs to be."""

    user: Callable[[str], None] = _nothing
    client_key: Callable[[str], None] = _nothing
    pool: Callable[[], object] = _nothing


@dataclass(frozen=True, slots=True)
class Administration:
    """The actions, by what they are on."""

    audit: AuditLog
    users: UserAdmin
    client_keys: ClientKeyAdmin
    keys: UpstreamKeyAdmin
    backup_keys: BackupKeyAdmin
    proxies: ProxyAdmin
    bindings: BindingAdmin


def build_administration(
    settings: Settings,
    db: Database[dict[str, Any]],
    cipher: KeyCipher,
    changes: Changes | None = None,
    derive: Callable[[str], PasswordHash] = hash_password,
) -> Administration:
    """The actions over this database; `derive` hashes passwords, off the event loop where there is one."""
    changes = changes or Changes()
    audit = AuditLog(db)
    env_keys: Sequence[str] = [key.get_secret_value() for key in settings.ohmygpt_api_keys]
    keys = UpstreamKeyAdmin(db, cipher, audit, changes.pool, env_keys)
    return Administration(
        audit=audit,
        users=UserAdmin(db, audit, changes.user, derive),
        client_keys=ClientKeyAdmin(db, audit, changes.client_key),
        keys=keys,
        backup_keys=BackupKeyAdmin(db, cipher, audit),
        proxies=ProxyAdmin(db, cipher, audit, settings.ohmygpt_base_url, settings.upstream_connect_timeout_s),
        bindings=BindingAdmin(db, cipher, audit, keys),
    )


def ensure_administration_indexes(db: Database[dict[str, Any]]) -> None:
    """The indexes that the audit log and the ledger are read by. Raises `PyMongoError`."""
    AuditStore(db).ensure_indexes()
    CreditLedger(db).ensure_indexes()
