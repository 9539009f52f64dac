"""The WSGI entry point: `gunicorn wsgi:app`, and what the `flask` command finds."""

import sys

import click
from flask import Flask

from app.common.errors import SettingsError
from app.settings import Settings


def _application() -> Flask:
    settings = Settings.from_env()
    context = click.get_current_context(silent=True)
    # No command: a server loads it.
    command = "run" if context is None else context.info_name
    if command in ("run", "routes"):
        from app.factory import create_app, create_app_to_show  # noqa: PLC0415  commands go without all that

        return create_app(settings) if command == "run" else create_app_to_show(settings)
    from app.cli import commands_app  # noqa: PLC0415

    return commands_app(settings)


try:
    app = _application()
except SettingsError as error:
    arbiter = sys.modules.get("gunicorn.arbiter")
    if arbiter is None:
        sys.exit(f"weir: {error}")
    # In a worker. With this status gunicorn ends as a whole: any other makes it try again for ever.
    sys.stderr.write(f"weir: {error}\n")
    sys.exit(arbiter.Arbiter.APP_LOAD_ERROR)
