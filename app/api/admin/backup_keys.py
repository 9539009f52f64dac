"""`/api/admin/ohmygpt/backup-keys…`: spare OhMyGPT keys."""

from flask import Blueprint, Response, jsonify
from typing_extensions import TypedDict

from app.api.admin.auth import current_actor
from app.api.admin.upstream_keys import ImportedView, NewUpstreamKeyBody
from app.api.admin.users import DoneView
from app.api.operation import Section
from app.core.display import json_ready
from app.management.backup_keys import BackupKey, BackupKeyAdmin

_NO_KEY = {404: "There is no such backup key."}
_TAKEN = {409: "There is such a backup key already."}


class BackupKeyView(TypedDict):
    """A spare key; `usedFor` is the key whose place it took."""

    id: str
    maskedApiKey: str
    isUsed: bool
    activated: bool
    usedFor: str | None
    usedAt: str | None
    createdAt: str | None


class BackupKeysView(TypedDict):
    """The spare keys, oldest first."""

    keys: list[BackupKeyView]
    total: int
    available: int
    used: int


class NewBackupKeyView(TypedDict):
    """A spare key just added."""

    id: str
    maskedApiKey: str
    isUsed: bool
    activated: bool
    createdAt: str | None


def add_backup_key_routes(routes: Blueprint, keys: BackupKeyAdmin) -> None:
    """Add the routes."""
    describe = Section("Backup keys")

    @routes.get("/ohmygpt/backup-keys")
    @describe("List the spare keys", answers=BackupKeysView)
    def list_backup_keys() -> Response:
        found = [backup_key_view(key) for key in keys.list()]
        used = sum(key["isUsed"] for key in found)
        return jsonify(BackupKeysView(keys=found, total=len(found), available=len(found) - used, used=used))

    @routes.post("/ohmygpt/backup-keys")
    @describe("Add a spare key", answers={201: NewBackupKeyView}, errors=_TAKEN)
    def add_backup_key(body: NewUpstreamKeyBody) -> tuple[Response, int]:
        """It is kept encrypted and never shown again; it takes the place of a key that dies."""
        key = backup_key_view(keys.add(current_actor(), body.id, body.apiKey.strip()))
        names = ("id", "maskedApiKey", "isUsed", "activated", "createdAt")
        return jsonify({name: key[name] for name in names}), 201  # type: ignore[literal-required]

    @routes.post("/ohmygpt/backup-keys/import")
    @describe("Add many spare keys", answers={201: ImportedView}, errors=_TAKEN)
    def import_backup_keys(body: str) -> tuple[Response, int]:
        """Lines of `id|key`: all of them, or none. Bad lines are in `details`, by their numbers."""
        ids = keys.import_lines(current_actor(), body)
        return jsonify(ImportedView(imported=len(ids), ids=ids)), 201

    @routes.delete("/ohmygpt/backup-keys/<key_id>")
    @describe("Delete a spare key", answers=DoneView, errors=_NO_KEY)
    def delete_backup_key(key_id: str) -> Response:
        keys.delete(current_actor(), key_id)
        return jsonify(DoneView(success=True, message=f"{key_id} is deleted"))

    @routes.post("/ohmygpt/backup-keys/<key_id>/restore")
    @describe(
        "Make a used spare key available again",
        answers=DoneView,
        errors={**_NO_KEY, 409: "It serves in the pool."},
    )
    def restore_backup_key(key_id: str) -> Response:
        keys.restore(current_actor(), key_id)
        return jsonify(DoneView(success=True, message=f"{key_id} is available again"))


def backup_key_view(key: BackupKey) -> BackupKeyView:
    """A spare key as shown."""
    return BackupKeyView(
        id=key.key_id,
        maskedApiKey=key.masked,
        isUsed=key.is_used,
        activated=key.activated,
        usedFor=key.used_for,
        usedAt=json_ready(key.used_at),
        createdAt=json_ready(key.created_at),
    )
