"""SetRequestHostHeader: the upstream sees a Host of the operator's choice."""

from dataclasses import replace

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools
from gateway.predicates import bind


def set_request_host_header(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `host` is taken as it stands."""
    host = str(bind(definition.args, "host")[0]).encode("ascii")

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        return await proceed(replace(exchange, preserve_host=host))

    return apply
