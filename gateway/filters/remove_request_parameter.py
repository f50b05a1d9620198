"""RemoveRequestParameter: keeps a query parameter from the upstream."""

from dataclasses import replace
from urllib.parse import unquote_plus

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools
from gateway.predicates import bind


def remove_request_parameter(definition: Definition, _: Tools) -> Filter:
    """Build the filter; the other parameters stay as the client spelled them."""
    name = str(bind(definition.args, "name")[0])

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        pairs = (exchange.query or "").split("&")
        kept = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) != name]
        return await proceed(replace(exchange, query="&".join(kept) or None))

    return apply
