"""RedirectTo: answers with a redirect; the upstream is never asked."""

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, expand, status_of
from gateway.predicates import bind


def redirect_to(definition: Definition, _: Tools) -> Filter:
    """Build the filter.

    Raises:
        ValueError: `status` is no redirect.
    """
    code, url, keep = bind(definition.args, "status", "url", "includeRequestParams", required=2)
    status = status_of(str(code))
    if status // 100 != 3:  # noqa: PLR2004 - the redirects
        raise ValueError(f"status {code} is no redirect")

    async def apply(exchange: Exchange, _: Handler) -> Reply:
        location = expand(str(url), exchange.variables, path=True)
        if keep == "true" and exchange.query:
            location += ("&" if "?" in location else "?") + exchange.query
        return Reply(status, [(b"Location", location.encode("ascii"))])

    return apply
