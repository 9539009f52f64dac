"""gunicorn in this process, with the configuration that comes with Weir."""

import os
import sys
from collections.abc import Sequence

from gunicorn.app.wsgiapp import WSGIApplication

from app.shipped import shipped_file


class Server(WSGIApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn with given options, which imports nothing from the working directory. `run` never returns."""

    def __init__(self, options: Sequence[str]) -> None:
        self._arguments = ["--config", str(shipped_file("gunicorn.conf.py")), "wsgi:app", *options]
        super().__init__("%(prog)s [OPTIONS]", prog="weir run")

    def load_config(self) -> None:
        """Read the configuration and the options."""
        # gunicorn reads `sys.argv`, at every reload anew; and a re-execution (USR2) starts what is in it.
        given = sys.argv
        sys.argv = [given[0], *self._arguments]
        try:
            super().load_config()
        finally:
            sys.argv = given

    def chdir(self) -> None:
        """Enter the working directory."""
        # gunicorn's own method also puts the directory first on `sys.path`.
        os.chdir(self.cfg.chdir)
