"""AddRequestParameter: one more query parameter for the upstream."""

from dataclasses import replace
from urllib.parse import quote_plus

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, expand
from gateway.predicates import bind


def add_request_parameter(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `value` may hold variables of the match."""
    name, value = map(str, bind(definition.args, "name", "value"))

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        added = f"{quote_plus(name)}={quote_plus(expand(value, exchange.variables))}"
        query = f"{exchange.query}&{added}" if exchange.query else added
        return await proceed(replace(exchange, query=query))

    return apply
