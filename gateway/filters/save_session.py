"""SaveSession: for gateways with a session of their own; this one keeps none."""

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools


def save_session(_: Definition, _tools: Tools) -> Filter:
    """Build a filter that passes on: YAML that names it works as it is."""

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        return await proceed(exchange)

    return apply
