"""`/api/admin/ohmygpt/backup-keys…`: backup OhMyGPT keys."""

from flask import Blueprint, Response, jsonify
from typing_extensions import TypedDict

from app.api.admin.auth import current_actor
from app.api.admin.upstream_keys import ImportedView, NewUpstreamKeyBody
from app.api.admin.users import DoneView
from app.api.operation import ApiSection
from app.management.backup_keys import BackupKeyAdmin
from app.management.views.keys import BackupKeysView, backup_key_view, backup_keys_view

_NO_KEY = {404: "There is no such backup key."}
_TAKEN = {409: "There is such a backup key already."}


class NewBackupKeyView(TypedDict):
    """A backup key just added."""

    id: str
    maskedApiKey: str
    isUsed: bool
    activated: bool
    createdAt: str | None


def add_backup_key_routes(routes: Blueprint, keys: BackupKeyAdmin) -> None:
    """Add the routes."""
    describe = ApiSection("Backup keys")

    @routes.get("/ohmygpt/backup-keys")
    @describe("List the backup keys", answers=BackupKeysView)
    def list_backup_keys() -> Response:
        return jsonify(backup_keys_view(keys.list()))

    @routes.post("/ohmygpt/backup-keys")
    @describe("Add a backup key", answers={201: NewBackupKeyView}, errors=_TAKEN)
    def add_backup_key(body: NewUpstreamKeyBody) -> tuple[Response, int]:
        """Keep a key, encrypted and never shown again, to take the place of a key that dies."""
        key = backup_key_view(keys.add(current_actor(), body.id, body.apiKey.strip()))
        names = ("id", "maskedApiKey", "isUsed", "activated", "createdAt")
        return jsonify({name: key[name] for name in names}), 201  # type: ignore[literal-required]

    @routes.post("/ohmygpt/backup-keys/import")
    @describe("Add many backup keys", answers={201: ImportedView}, errors=_TAKEN)
    def import_backup_keys(body: str) -> tuple[Response, int]:
        """Take lines of `id|key`: all of them, or none. Bad lines are in `details`, by their numbers."""
        ids = keys.import_lines(current_actor(), body)
        return jsonify(ImportedView(imported=len(ids), ids=ids)), 201

    @routes.delete("/ohmygpt/backup-keys/<key_id>")
    @describe("Delete a backup key", answers=DoneView, errors=_NO_KEY)
    def delete_backup_key(key_id: str) -> Response:
        keys.delete(current_actor(), key_id)
        return jsonify(DoneView(success=True, message=f"{key_id} is deleted"))

    @routes.post("/ohmygpt/backup-keys/<key_id>/restore")
    @describe(
        "Make a used backup key available again",
        answers=DoneView,
        errors={**_NO_KEY, 409: "It serves in the pool."},
    )
    def restore_backup_key(key_id: str) -> Response:
        keys.restore(current_actor(), key_id)
        return jsonify(DoneView(success=True, message=f"{key_id} is available again"))
