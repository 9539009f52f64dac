"""What `CORS_ORIGINS` costs: a proxy without it, and one with it, asked by a program and by a web page."""

from dataclasses import replace

from bench.native import Aim
from bench.run import Figure, Results, Site, measure_by_turns
from bench.shapes import Level, plain
from bench.weir import WeirTarget

CORS = "cors, plain"
_ORIGIN = "https://chat.example.com"


class _Asked(WeirTarget):
    """A proxy that shares its answers with a page, or not."""

    def __init__(self, site: Site, name: str, settings: dict[str, str]) -> None:
        super().__init__(
            site.upstream.port,
            site.directory / name.replace(" ", "-"),
            (site.proxy_core,),
            site.load_core,
            settings,
        )
        self.name = f"weir, {name}"


class _ByPage(_Asked):
    """The same, asked by the page."""

    @property
    def aim(self) -> Aim:
        """With the header that a browser adds."""
        return replace(super().aim, headers=(f"Origin: {_ORIGIN}",))


def measure(site: Site, level: Level, results: Results) -> None:
    """Measure plain requests to three proxies by turns; the last is to cost what the first does."""
    settings = {"CORS_ORIGINS": _ORIGIN}
    targets = [_Asked(site, "without", {}), _Asked(site, "CORS", settings), _ByPage(site, "page", settings)]
    measure_by_turns(site, level, results, targets, [Figure(CORS, plain)])
