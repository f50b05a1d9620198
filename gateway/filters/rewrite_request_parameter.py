"""RewriteRequestParameter: another value for a query parameter that the client sent."""

from dataclasses import replace
from urllib.parse import quote, unquote_plus

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, expand
from gateway.predicates import bind


def rewrite_request_parameter(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `replacement` may hold variables of the match."""
    name, replacement = map(str, bind(definition.args, "name", "replacement"))

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        pairs = (exchange.query or "").split("&")
        kept = [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) != name]
        if len(kept) == len(pairs):
            return await proceed(exchange)
        value = quote(expand(replacement, exchange.variables), safe="/?:@!$'()*,;-._~")
        query = "&".join([*kept, f"{quote(name)}={value}"])
        return await proceed(replace(exchange, query=query))

    return apply
