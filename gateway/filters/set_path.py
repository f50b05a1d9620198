"""SetPath: replaces the path by a template with variables of the match."""

from dataclasses import replace

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, decoded, expand
from gateway.predicates import bind


def set_path(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `template` may hold `{name}`."""
    template = str(bind(definition.args, "template")[0])

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        raw = expand(template, exchange.variables, path=True)
        return await proceed(replace(exchange, raw_path=raw, path=decoded(raw)))

    return apply
