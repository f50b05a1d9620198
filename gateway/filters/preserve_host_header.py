"""PreserveHostHeader: the upstream sees the Host that the client named."""

from dataclasses import replace

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools


def preserve_host_header(_: Definition, __: Tools) -> Filter:
    """Build the filter; it takes no arguments."""

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        return await proceed(replace(exchange, preserve_host=exchange.host.encode()))

    return apply
