"""`python -m drill`: see `drill.cli`."""

from gevent import monkey

# Children are waited for where they were started; gevent's own watcher would take their exit status away.
monkey.patch_all(os=False, signal=False, subprocess=False)

import sys  # noqa: E402  the patch comes before everything else

from drill.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
