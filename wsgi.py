"""The WSGI entry point: `gunicorn wsgi:app`, and what the `flask` command finds."""

import sys

from app.factory import create_app
from app.settings import Settings, SettingsError

try:
    app = create_app(Settings.from_env())
except SettingsError as error:
    sys.exit(f"weir: {error}")
