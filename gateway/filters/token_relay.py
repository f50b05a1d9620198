"""TokenRelay: the caller's own access token for the upstream, which is what it gets anyway."""

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools


def token_relay(_: Definition, __: Tools) -> Filter:
    """Build the filter; the platform's token is the only one, whichever client it names."""

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        return await proceed(exchange)

    return apply
