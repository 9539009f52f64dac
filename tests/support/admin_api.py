"""The whole application over a database of one's own, and an admin who calls it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.factory import EXTENSION, create_app
from app.settings import Settings

TOKEN = "admin-token-of-tests"
MODELS_FILE = Path(__file__).with_name("models.toml")
"""A small model table: to read the one that is shipped takes as long as all else that an application does."""
ENV_KEY = "sk-env-0123456789-0123456789-0123456789"


@contextmanager
def admin_app(mongo_uri: str, db_name: str, data_dir: Path, **settings: Any) -> Iterator[Flask]:
    """The application, its connections closed afterwards."""
    data_dir.mkdir(mode=0o700, exist_ok=True)
    app = create_app(
        Settings(
            mongodb_uri=mongo_uri,
            mongodb_db_name=db_name,
            data_dir=data_dir,
            admin_token=TOKEN,
            secret_key="secret-key-of-tests",
            ohmygpt_api_keys=ENV_KEY,
            **settings,
        )
    )
    yield app
    app.extensions[EXTENSION].database.client.close()


class Admin:
    """Calls `/api/admin` with the admin token."""

    def __init__(self, app: Flask) -> None:
        self.client: FlaskClient = app.test_client()
        self.headers = {"Authorization": f"Bearer {TOKEN}"}

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> TestResponse:
        if body is not None:
            options["json"] = body
        return self.client.open(f"/api/admin{path}", method=method, headers=self.headers, **options)

    def get(self, path: str) -> Any:
        """The answer's JSON, which has to be a 200."""
        answer = self("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json

    def text(self, path: str, body: str) -> TestResponse:
        """A POST of plain text."""
        return self("POST", path, data=body.encode(), content_type="text/plain")
