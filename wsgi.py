"""The WSGI entry point: `gunicorn wsgi:app`, and what the `flask` command finds."""

import sys

from app.factory import create_app
from app.settings import Settings, SettingsError

try:
    app = create_app(Settings.from_env())
except SettingsError as error:
    arbiter = sys.modules.get("gunicorn.arbiter")
    if arbiter is None:
        sys.exit(f"weir: {error}")
    # In a worker. With this status gunicorn ends as a whole: any other makes it try again for ever.
    sys.stderr.write(f"weir: {error}\n")
    sys.exit(arbiter.Arbiter.APP_LOAD_ERROR)
