"""`weir run`: the proxy, in this process."""

import click
from gevent import monkey


@click.command("run", context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[GUNICORN OPTION]...")
def command(options: tuple[str, ...]) -> None:
    """Serve with gunicorn and the configuration that comes with Weir.

    gunicorn's options outdo the environment: `weir run -- --help` lists them. SIGTERM ends it, and SIGHUP
    reads the configuration anew.
    """
    if options and not options[0].startswith("-"):
        raise click.UsageError(f"{options[0]!r} is no option of gunicorn's: weir run takes nothing else")
    # Before whatever else is imported: its sockets and locks have to be gevent's.
    monkey.patch_all()
    from app.preflight import check_or_exit  # noqa: PLC0415

    check_or_exit()
    from app.cli.server import Server  # noqa: PLC0415  importing gunicorn reads WEB_CONCURRENCY

    Server(options).run()
