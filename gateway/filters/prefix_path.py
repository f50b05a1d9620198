"""PrefixPath: puts a prefix, which may name variables of the match, before the path."""

from dataclasses import replace

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, decoded, expand
from gateway.predicates import bind


def prefix_path(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `prefix` opens with a slash."""
    prefix = str(bind(definition.args, "prefix")[0])

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        raw = expand(prefix, exchange.variables, path=True) + exchange.raw_path
        return await proceed(replace(exchange, raw_path=raw, path=decoded(raw)))

    return apply
