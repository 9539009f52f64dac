"""What models brought, and what the upstream says it took for them."""

from flask import Blueprint, make_response, render_template
from werkzeug.wrappers import Response as AnyResponse

from app.admin.asking import ask
from app.admin.upstream import BY_MODEL, DEFAULT_PERIOD, MOST_ROWS, UpstreamSources


def upstream_model_pages(sources: UpstreamSources) -> Blueprint:
    """Make the page `/upstream/models`."""
    routes = Blueprint("upstream_models", __name__)

    @routes.get("/upstream/models")
    def models() -> AnyResponse:
        period, problem = sources.period()
        found = ask(lambda: sources.stats.usage(BY_MODEL, period, limit=MOST_ROWS))
        page = render_template(
            "upstream_models.html",
            default_period=DEFAULT_PERIOD,
            problem=problem,
            rows=[] if found is None else [(key[0], totals) for key, totals in found.rows],
            total=None if found is None else found.total,
            others=0 if found is None else found.other_count,
        )
        return make_response(page, 200 if problem is None else 400)

    return routes
