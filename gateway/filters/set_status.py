"""SetStatus: the status that the client sees, whatever the upstream said."""

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, status_of
from gateway.predicates import bind


def set_status(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `status` is a number or a name such as BAD_REQUEST."""
    status = status_of(str(bind(definition.args, "status")[0]))

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        reply = await proceed(exchange)
        reply.status = status
        return reply

    return apply
